# One entry point for people and for CI. `make demo` and `make test` set up what they need.

.PHONY: demo test test-attacks test-systemd test-trixie test-sid test-here lint types lock hunt clean
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.installed
STORIES := \
	tests/live/test_programs.py::test_a_machine_enrols_through_its_sites_mirror \
	tests/live/test_site.py::test_a_site_takes_a_release_from_the_origin_once_and_shares_it \
	tests/live/test_site.py::test_a_halt_at_the_mirror_stops_a_transfer_and_nothing_else \
	tests/live/test_brake.py::test_a_halt_has_a_certificate_that_verifies_offline_and_a_hook_that_ran \
	tests/live/test_bad_days.py::test_a_certificate_past_half_its_life_renews_itself \
	tests/live/test_discovery.py::test_a_mirror_and_an_endpoint_find_each_other

demo: $(READY)
	$(BIN)/firedoor demo

test: lint types
	$(BIN)/python -m pytest --ignore=tests/attacks --ignore=tests/systemd

# What a thief, a stick and a crowd can do: each attack of tests/attacks/README.md, with real programs.
test-attacks: $(READY)
	$(BIN)/python -m pytest tests/attacks

# The units of the agent and the helper as they are deployed, under a real systemd on a fresh Debian.
test-systemd: $(READY)
	$(BIN)/python -m pytest tests/systemd

# Debian 13 and the Debian to come, each in a fresh system tree: newer Pythons than this machine's.
# sid changes by itself, so nothing waits for it.
test-trixie:
	.ci/debian trixie make demo test-here

test-sid:
	.ci/debian sid make demo test-here

# What those two run inside: all that needs no other machine, and six stories with real programs.
test-here: $(READY)
	$(BIN)/python -m pytest tests/unit tests/vectors tests/transcripts tests/simulation tests/test_architecture.py
	$(BIN)/python -m pytest $(STORIES)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

# Hours of random input, ten thousand kills, and each check removed once (in a clone: files change).
hunt: $(READY)
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/properties tests/fuzz
	$(BIN)/python -m tests.hunt kills --times 10000
	$(BIN)/python -m tests.hunt mutants

# Writes the requirements files anew, for every platform and Python that we support.
lock:
	.ci/lock

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: without it, whatever is in .venv is half made and is made again.
$(READY): requirements-test.txt pyproject.toml
	.ci/environment

# One entry point for people and for CI. `make demo` and `make test` set up what they need.

.PHONY: demo test lint types lock hunt clean
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.installed

demo: $(READY)
	$(BIN)/firedoor demo

test: lint types
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

# Hours of random input, and ten thousand kills, instead of the seconds that `make test` takes.
hunt: $(READY)
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/properties tests/fuzz
	$(BIN)/python -m tests.hunt kills --times 10000

# Writes the requirements files anew, for every platform and Python that we support.
lock:
	.ci/lock

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: without it, whatever is in .venv is half made and is made again.
$(READY): requirements-test.txt pyproject.toml
	.ci/environment

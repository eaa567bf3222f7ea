"""One product's life: its phases, what remembers them, and what judges a fresh release."""

import asyncio
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from agent.checks.command import LocalChecks
from agent.checks.contract import CheckResult
from agent.decisions import lifecycle
from agent.decisions.lifecycle import NEXT, RECOVERS_TO, Entry, Phase, advance
from agent.decisions.verdict import Verdict, verdict
from agent.install.journal import Journal
from firedoor.errors import Malformed, Unavailable
from firedoor.units import Instant, Span

# --- phases ------------------------------------------------------------------------------------


def test_every_phase_has_a_way_on_and_a_way_back_from_a_crash() -> None:
    assert set(NEXT) == set(RECOVERS_TO) == set(Phase)
    assert all(NEXT.values())


def test_every_phase_is_reached_from_idle_and_leads_back_to_it() -> None:
    def reached(start: Phase) -> set[Phase]:
        found = {start}
        while more := {to for phase in found for to in NEXT[phase]} - found:
            found |= more
        return found

    assert reached(Phase.IDLE) == set(Phase)
    assert all(Phase.IDLE in reached(phase) for phase in Phase)


def diagram() -> str:
    """The lifecycle's tables as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    for here in Phase:
        there = [each for each in Phase if each in NEXT[here] and each is not here]
        lines += [f"    {name_of(here)} --> {name_of(each)}" for each in there]
    for phase, recovered in RECOVERS_TO.items():
        if recovered not in {phase, Phase.IDLE}:
            lines.append(f"    {name_of(phase)} --> {name_of(recovered)}: recovers, if active")
    return "\n".join(lines)


def name_of(phase: Phase) -> str:
    return phase.value.replace("-", "_")


def test_the_diagram_in_the_readme_is_drawn_from_the_table() -> None:
    """`REWRITE=1` draws it anew."""
    path = Path(lifecycle.__file__).parent / "README.md"
    before, fence, _ = path.read_text("utf-8").partition("```mermaid\n")
    drawn = f"{before}{fence}{diagram()}\n```\n"
    if os.environ.get("REWRITE"):
        path.write_text(drawn, "utf-8")
    assert path.read_text("utf-8") == drawn


def test_a_crash_resumes_only_where_the_table_leads() -> None:
    for phase, resumed in RECOVERS_TO.items():
        assert resumed is phase or resumed in NEXT[phase]


def test_what_the_table_lacks_is_our_own_mistake() -> None:
    for here, to in product(Phase, Phase):
        if to in NEXT[here]:
            assert advance(here, to) is to
        else:
            with pytest.raises(RuntimeError, match="no way"):
                advance(here, to)


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.FETCHING, Phase.STAGING])
def test_nothing_is_activated_that_was_not_staged(phase: Phase) -> None:
    assert Phase.ACTIVATING not in NEXT[phase]


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.ACTIVATING])
def test_only_what_was_activated_is_checked(phase: Phase) -> None:
    assert Phase.CHECKING not in NEXT[phase]


def test_a_switch_that_the_disk_refused_to_throw_back_is_thrown_again() -> None:
    assert Phase.ROLLING_BACK in NEXT[Phase.ROLLING_BACK]
    assert RECOVERS_TO[Phase.ROLLING_BACK] is Phase.ROLLING_BACK


# --- verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_well", "now", "wanted"),
    [
        (True, 109.9, Verdict.UNDECIDED),
        (True, 110.0, Verdict.WELL),
        (False, 100.0, Verdict.UNWELL),
        (False, 999.0, Verdict.UNWELL),
    ],
)
def test_a_release_is_well_after_its_settle_span_and_unwell_at_once(
    is_well: bool,  # noqa: FBT001  # a column of the table
    now: float,
    wanted: Verdict,
) -> None:
    since = Instant(100.0)
    found = verdict(is_well=is_well, settle_span=Span(10.0), since=since, now=Instant(now))
    assert found is wanted


# --- the journal -------------------------------------------------------------------------------


def test_an_entry_outlives_the_process(tmp_path: Path) -> None:
    entry = Entry(Phase.CHECKING, "b" * 64, "a" * 64, "a" * 64)
    journal = Journal(tmp_path / "journal.db")
    assert journal.read("app") == Entry()
    journal.write("app", Entry(Phase.STAGING, "b" * 64))
    journal.write("app", entry)
    journal.write("other", Entry(Phase.FETCHING))
    journal.add_failed("app", b"1" * 32)
    journal.add_failed("app", b"1" * 32)
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert journal.read("app") == entry
    assert journal.failed("app") == {b"1" * 32}
    assert not journal.failed("other")
    journal.close()


def test_a_write_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.write("app", Entry(Phase.STAGING))
    # As after a crash: opened anew while the first was never closed.
    second = Journal(tmp_path / "journal.db")
    assert second.read("app").phase is Phase.STAGING
    second.close()
    journal.close()


@pytest.mark.parametrize("data", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_journal_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(data)
    with pytest.raises(Malformed, match=r"journal\.db"):
        Journal(path)


def test_a_damaged_page_is_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(200):
        journal.add_failed("app", number.to_bytes(32, "big"))
    journal.close()
    data = bytearray(path.read_bytes())
    data[-2000:-1000] = b"\xff" * 1000
    path.write_bytes(data)
    with pytest.raises(Malformed, match=r"journal\.db"):
        Journal(path)


def test_a_phase_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.write("app", Entry())
    journal._database.execute("UPDATE phases SET phase = 'dancing'")
    with pytest.raises(Malformed, match="dancing"):
        journal.read("app")
    journal.close()


def test_a_disk_that_refuses_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Journal(tmp_path / "missing" / "journal.db")
    journal = Journal(tmp_path / "journal.db")
    journal._database.execute("PRAGMA query_only=1")
    with pytest.raises(Unavailable):
        journal.write("app", Entry())
    with pytest.raises(Unavailable):
        journal.add_failed("app", b"1" * 32)
    journal.close()


# --- checks ------------------------------------------------------------------------------------


def checked(code: str, folder: Path, timeout: float = 20.0) -> CheckResult:
    command = shlex.join([sys.executable, "-c", code])
    return asyncio.run(LocalChecks(None).run(command, folder=folder, span=Span(timeout)))


def test_a_command_that_exits_0_is_well(tmp_path: Path) -> None:
    assert checked("print('fine')", tmp_path) == CheckResult(is_well=True)


def test_a_command_that_fails_says_its_code_and_its_last_words(tmp_path: Path) -> None:
    found = checked("print('x' * 100_000, flush=True); raise SystemExit('no heartbeat')", tmp_path)
    assert not found.is_well
    assert found.detail.startswith("exit code 1: x")
    assert found.detail.endswith("no heartbeat")
    assert len(found.detail) < 400


def test_a_command_runs_in_its_folder_with_little_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the agent")
    here = str(tmp_path.resolve())
    code = (
        "import os; "
        f"assert os.getcwd() == {here!r}; "
        f"assert os.environ['FIREDOOR_VERSION_FOLDER'] == {here!r}; "
        "assert 'A_SECRET' not in os.environ"
    )
    assert checked(code, tmp_path.resolve()) == CheckResult(is_well=True)


@pytest.mark.parametrize("command", ["", "'unclosed", "/no/such/program", "nul\0byte"])
def test_a_command_that_cannot_start_is_not_well(tmp_path: Path, command: str) -> None:
    found = asyncio.run(LocalChecks(None).run(command, folder=tmp_path, span=Span(20.0)))
    assert not found.is_well
    assert found.detail.startswith("cannot start")


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_command_out_of_time_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import os, signal; os.fork(); signal.pause()"
    found = checked(code, tmp_path, timeout=0.2)
    assert found == CheckResult(is_well=False, detail="did not end within 0.2 s")


def test_a_journal_that_is_closed_says_so_to_a_thread_that_comes_late(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.close()
    with pytest.raises(Unavailable, match="closed"):
        journal.read("app")


def test_a_journal_waits_for_threads_that_are_at_it_before_it_closes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    with ThreadPoolExecutor(8) as pool:
        works = [pool.submit(journal.add_failed, "app", bytes([number])) for number in range(200)]
        works[20].result()
        # Without a wait the interpreter itself crashes here, most times.
        journal.close()
        for work in works:
            with suppress(Unavailable):
                work.result()

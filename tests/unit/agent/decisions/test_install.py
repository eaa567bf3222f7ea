"""The install machine by exact effects: what it sees in, what the host must do out."""

from dataclasses import replace

import pytest

from agent.decisions.effects import (
    Activate,
    Arm,
    Candidate,
    Check,
    Disarm,
    Download,
    InstallEffect,
    LookAgain,
    MarkFailed,
    Note,
    Quarantine,
    Release,
    Report,
    Sight,
    Stage,
    StepBack,
    Switched,
    Undo,
    Unstage,
)
from agent.decisions.install import LOOK_AGAIN, LOOK_ARMED, Install
from agent.decisions.lifecycle import Entry, Phase
from agent.decisions.resting import TRY_AGAIN
from agent.decisions.verdict import Verdict
from firedoor.dice import Dice
from firedoor.effects import Tell
from firedoor.errors import Halted, NoRoom, Unavailable
from firedoor.units import Instant, Span

T = Instant(100.0)
OLD, NEW = Release("1.0", "a" * 64), Release("2.0", "b" * 64)
RUNS_OLD = Entry(Phase.IDLE, OLD.manifest, OLD.manifest)
CONTENTS = {OLD.manifest: b"1" * 32, NEW.manifest: b"2" * 32}
BOTH = Sight(T, OLD, (OLD, NEW), contents=CONTENTS, may_run=frozenset(CONTENTS))
WHOLE = Candidate(NEW, is_whole=True)


def machine(entry: Entry = RUNS_OLD, *, switches_when_told: bool = False) -> Install:
    """A machine that has recovered, and whose site waits for nobody's turn."""
    made = Install("app", entry, Dice(1), T, switches_when_told=switches_when_told)
    made.obey(BOTH)
    made.noted(entry)
    return made


def alone(**more: object) -> Sight:
    """Where 1.0 runs and nothing else is on the disk."""
    return replace(BOTH, staged=(OLD,), **more)  # type: ignore[arg-type]  # fields by name


def perform(made: Install, effects: list[InstallEffect]) -> list[InstallEffect]:
    """Note what is noted, as a host does; all effects but the notes."""
    for effect in effects:
        if isinstance(effect, Note):
            made.noted(effect.entry)
    return [effect for effect in effects if not isinstance(effect, Note)]


def halted(release: Release, level: int, sight: Sight = BOTH) -> Sight:
    # A site of no neighbours has no turns to wait for.
    return replace(sight, levels={release.manifest: level}, neighbours=0)


# --- towards a release -------------------------------------------------------------------------


def test_a_release_is_downloaded_staged_activated_and_checked_each_noted_before() -> None:
    made = machine()
    wanted = Candidate(NEW, is_whole=False)
    fetching = Entry(Phase.FETCHING, NEW.manifest, OLD.manifest)
    assert made.plan(alone(candidate=wanted)) == [
        Note(fetching),
        Download(NEW),
        LookAgain(LOOK_AGAIN),
    ]
    made.noted(fetching)
    staging = replace(fetching, phase=Phase.STAGING)
    staged = replace(fetching, phase=Phase.STAGED)
    effects = made.plan(alone(candidate=WHOLE))
    assert effects == [Note(staging), Stage(NEW), Note(staged)]
    perform(made, effects)
    effects = made.plan(replace(BOTH, candidate=WHOLE))
    assert effects == [Note(replace(fetching, phase=Phase.ACTIVATING)), Activate(NEW)]
    perform(made, effects)
    facts = (("product", "app"), ("version", "2.0"))
    effects = made.activated(NEW, OLD, is_permitted=True, lease_error="")
    assert perform(made, effects) == [Tell("activated", facts), Switched(NEW)]
    assert made.plan(replace(BOTH, active=NEW)) == [Check(NEW)]


def test_a_release_without_a_lease_is_said_and_waited_for() -> None:
    wanted = Candidate(NEW, is_whole=True, lease_error="waits for a lease")
    effects = machine().plan(alone(candidate=wanted))
    assert effects == [Report("waits for a lease"), LookAgain(LOOK_AGAIN)]


def test_a_release_whose_checks_cannot_run_is_held_back() -> None:
    wanted = Candidate(NEW, is_whole=True, hindrance="no helper")
    effects = machine().plan(alone(candidate=wanted))
    assert effects == [Report("2.0 is held back: no helper"), LookAgain(LOOK_AGAIN)]


@pytest.mark.parametrize(("is_permitted", "lease_error"), [(False, ""), (True, "it ran out")])
def test_doubt_after_the_switch_undoes_it(*, is_permitted: bool, lease_error: str) -> None:
    made = machine(Entry(Phase.ACTIVATING, NEW.manifest, OLD.manifest))
    made.noted(Entry(Phase.ACTIVATING, NEW.manifest, OLD.manifest))
    effects = made.activated(NEW, OLD, is_permitted=is_permitted, lease_error=lease_error)
    notes = [effect for effect in effects if isinstance(effect, Note)]
    assert [note.entry.phase for note in notes] == [Phase.ROLLING_BACK, Phase.IDLE]
    assert not any(note.is_vital for note in notes)
    assert effects[1] == Undo(OLD)
    assert (Unstage(NEW) in effects) is not is_permitted
    assert (LookAgain(TRY_AGAIN) in effects) is is_permitted


# --- checks ------------------------------------------------------------------------------------


def test_what_is_well_becomes_the_way_back_and_the_rest_is_removed() -> None:
    older = Release("0.9", "c" * 64)
    made = machine()
    made.noted(Entry(Phase.CHECKING, NEW.manifest, OLD.manifest, older.manifest))
    seen = replace(BOTH, active=NEW, staged=(older, OLD, NEW))
    effects = made.checked(NEW, Verdict.WELL, "", seen)
    good = Entry(Phase.IDLE, NEW.manifest, NEW.manifest, OLD.manifest)
    assert effects[0] == Note(good)
    assert effects[-1] == Unstage(older)


def test_what_is_unwell_steps_back_and_is_marked_first() -> None:
    made = machine()
    made.noted(Entry(Phase.CHECKING, NEW.manifest, OLD.manifest))
    effects = perform(made, made.checked(NEW, Verdict.UNWELL, "exit 1", replace(BOTH, active=NEW)))
    kinds = [type(effect) for effect in effects]
    assert kinds == [Tell, MarkFailed, StepBack, Tell, Report]
    assert made.entry == Entry(Phase.IDLE, OLD.manifest, OLD.manifest)
    assert made.failed_contents == {CONTENTS[NEW.manifest]}


def test_the_same_bytes_under_another_name_are_no_way_back() -> None:
    made = machine()
    made.noted(Entry(Phase.CHECKING, NEW.manifest, OLD.manifest))
    same = replace(BOTH, active=NEW, contents=dict.fromkeys(CONTENTS, b"2" * 32))
    effects = made.checked(NEW, Verdict.UNWELL, "exit 1", same)
    assert not any(isinstance(effect, StepBack) for effect in effects)
    assert "nothing good" in str(effects[-1])


def test_another_hand_on_the_switch_ends_a_check() -> None:
    made = machine()
    made.noted(Entry(Phase.CHECKING, NEW.manifest, OLD.manifest))
    assert made.checked(NEW, Verdict.WELL, "", BOTH) == [
        Note(Entry(Phase.IDLE, NEW.manifest, OLD.manifest))
    ]


# --- orders ------------------------------------------------------------------------------------


def test_a_halt_of_what_runs_steps_back_and_puts_it_aside() -> None:
    made = machine(Entry(Phase.IDLE, NEW.manifest, NEW.manifest, OLD.manifest))
    seen = halted(NEW, 6, replace(BOTH, active=NEW))
    effects = perform(made, made.obey(seen))
    assert [effect for effect in effects if not isinstance(effect, Tell)] == [
        StepBack(OLD),
        Quarantine(NEW),
    ]
    assert made.phase is Phase.IDLE


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.ROLLING_BACK])
def test_a_halt_of_what_runs_is_obeyed_after_a_crash_in_any_phase(phase: Phase) -> None:
    made = Install("app", Entry(phase, "c" * 64, NEW.manifest, OLD.manifest), Dice(1), T)
    effects = made.obey(halted(NEW, 6, replace(BOTH, active=NEW)))
    assert StepBack(OLD) in effects


def test_a_halt_of_what_runs_is_obeyed_while_another_release_is_armed() -> None:
    next_one = Release("3.0", "c" * 64)
    made = machine(switches_when_told=True)
    made.noted(Entry(Phase.STAGED, next_one.manifest, NEW.manifest, OLD.manifest))
    seen = replace(BOTH, active=NEW, staged=(OLD, NEW, next_one))
    armed = Candidate(next_one, is_whole=True)
    effects = perform(made, made.plan(replace(seen, candidate=armed)))
    assert effects[0] == Arm(next_one)
    assert effects[-1] == LookAgain(LOOK_ARMED)
    assert StepBack(OLD) in perform(made, made.obey(halted(NEW, 6, seen)))
    after = replace(seen, active=OLD, candidate=armed)
    assert any(isinstance(effect, Disarm) for effect in made.plan(after))


def test_nothing_good_to_go_back_to_leaves_it_running_and_says_so() -> None:
    made = machine(Entry(Phase.IDLE, NEW.manifest, NEW.manifest))
    seen = halted(NEW, 6, replace(BOTH, active=NEW))
    effects = made.obey(seen)
    assert effects == [Report("2.0 is halted at level 6; nothing good to go back to")]
    assert not made.has_to_obey(seen)


def test_the_fix_of_what_is_halted_comes_though_there_is_no_way_back() -> None:
    made = machine(Entry(Phase.IDLE, OLD.manifest, OLD.manifest))
    seen = halted(OLD, 6, replace(BOTH, candidate=WHOLE, may_run=frozenset({NEW.manifest})))
    done: list[InstallEffect] = []
    for _ in range(2):
        done += perform(made, made.obey(seen))
        done += perform(made, made.plan(seen))
    assert Stage(NEW) in done
    assert Activate(NEW) in done


def test_what_runs_steps_back_before_anything_that_takes_time() -> None:
    aside = Release("0.9", "0" * 64)
    made = machine(Entry(Phase.IDLE, NEW.manifest, NEW.manifest, OLD.manifest))
    levels = {aside.manifest: 6, NEW.manifest: 6}
    seen = replace(BOTH, active=NEW, staged=(aside, OLD, NEW), levels=levels, neighbours=0)
    effects = perform(made, made.obey(seen))
    assert effects[0] == StepBack(OLD)
    assert effects[-1] == Quarantine(aside)


def test_a_halt_of_level_3_removes_what_is_staged_and_was_never_proved() -> None:
    assert machine().obey(halted(NEW, 3)) == [Unstage(NEW)]
    assert machine().has_to_obey(halted(NEW, 3))
    assert machine(replace(RUNS_OLD, good=NEW.manifest)).obey(halted(NEW, 3)) == []


def test_a_staging_of_what_is_halted_is_still_to_be_stopped() -> None:
    made = machine()
    made.noted(Entry(Phase.STAGING, NEW.manifest, OLD.manifest))
    assert made.has_to_obey(halted(NEW, 3, alone()))
    assert not made.has_to_obey(halted(NEW, 2, alone()))


def test_a_site_takes_turns_to_step_back() -> None:
    made = machine(Entry(Phase.IDLE, NEW.manifest, NEW.manifest, OLD.manifest))
    crowd = replace(halted(NEW, 6, replace(BOTH, active=NEW)), neighbours=200)
    [wait] = made.obey(crowd)
    assert isinstance(wait, LookAgain)
    later = replace(crowd, now=Instant(T + wait.span))
    assert StepBack(OLD) in made.obey(later)


# --- failures ----------------------------------------------------------------------------------


def test_the_brake_that_aborts_a_staging_is_no_failure() -> None:
    made = machine()
    made.noted(Entry(Phase.STAGING, NEW.manifest, OLD.manifest))
    effects = made.failed(Halted(NEW.manifest[:12], level=3), T)
    assert [type(effect) for effect in effects] == [Disarm, Note, Report]


@pytest.mark.parametrize("error", [OSError("disk"), Unavailable("the lease", why="it ran out")])
def test_any_failure_ends_the_wait_for_a_switch(error: Exception) -> None:
    made = machine(switches_when_told=True)
    made.armed = NEW.manifest
    [disarm, *_] = made.failed(error, T)
    assert isinstance(disarm, Disarm)
    assert "disk" in str(disarm.why) or "ran out" in str(disarm.why)
    assert not made.armed


@pytest.mark.parametrize("is_armed", [False, True])
def test_a_piece_that_is_gone_since_staging_is_fetched_again(*, is_armed: bool) -> None:
    made = machine(switches_when_told=True)
    made.noted(Entry(Phase.STAGED, NEW.manifest, OLD.manifest))
    made.armed = NEW.manifest if is_armed else ""
    gone = replace(BOTH, candidate=Candidate(NEW, is_whole=False))
    perform(made, made.plan(gone))
    assert Download(NEW) in made.plan(gone)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("level", range(8))
def test_no_phase_and_no_sight_lead_where_the_table_does_not(phase: Phase, level: int) -> None:
    candidates = [None] + [
        Candidate(release, is_whole=is_whole, is_fetching=is_fetching, lease_error=lease)
        for release in (OLD, NEW)
        for is_whole, is_fetching in ((True, False), (False, True), (False, False))
        for lease in ("", "it ran out")
    ]
    for candidate in candidates:
        for active in (None, OLD, NEW):
            made = Install("app", Entry(phase, NEW.manifest, OLD.manifest), Dice(1), T)
            levels = {OLD.manifest: level, NEW.manifest: level}
            seen = replace(BOTH, active=active, candidate=candidate, levels=levels, neighbours=0)
            for _ in range(4):
                perform(made, made.obey(seen))
                perform(made, made.plan(seen))
                if made.phase is Phase.ACTIVATING:
                    perform(made, made.activated(NEW, OLD, is_permitted=True, lease_error=""))


def test_a_crash_between_switch_and_note_is_found_by_the_switch() -> None:
    made = machine()
    made.noted(Entry(Phase.ACTIVATING, NEW.manifest, OLD.manifest))
    made.failed(Unavailable("the journal", why="full"), T)
    switched = replace(BOTH, active=NEW)
    made.obey(switched)
    assert made.plan(switched) == [Check(NEW)]
    made.noted(Entry(Phase.ACTIVATING, NEW.manifest, OLD.manifest))
    made.failed(Unavailable("the journal", why="full"), T)
    made.obey(BOTH)
    assert made.phase is Phase.IDLE


def test_what_finds_no_room_waits_longer_each_time() -> None:
    made = machine()
    now, waits = T, []
    for _ in range(4):
        made.failed(NoRoom("pieces", why="full"), now)
        made.obey(BOTH)
        [wait] = made.plan(replace(BOTH, now=now))
        assert isinstance(wait, LookAgain)
        waits.append(wait.span)
        now = Instant(now + wait.span)
    assert waits == [Span(1.0), Span(2.0), Span(4.0), Span(8.0)]

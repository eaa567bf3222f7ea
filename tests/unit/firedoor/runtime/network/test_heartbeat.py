"""Who beats on a connection, and when silence is death."""

import pytest

from firedoor.identity import Role
from firedoor.runtime.network.heartbeat import MIRROR_BEAT, NEIGHBOUR_BEAT, beat_of, pulse_of
from firedoor.units import Instant, Span

START = Instant(100.0)


@pytest.mark.parametrize(
    ("sender", "receiver", "is_dialler", "wanted"),
    [
        (Role.MIRROR, Role.AGENT, False, MIRROR_BEAT),
        (Role.MIRROR, Role.AGENT, True, MIRROR_BEAT),
        (Role.AGENT, Role.MIRROR, True, None),
        (Role.MIRROR, Role.MIRROR, False, MIRROR_BEAT),
        (Role.MIRROR, Role.MIRROR, True, None),
        (Role.AGENT, Role.AGENT, True, None),
        (Role.AGENT, Role.AGENT, False, NEIGHBOUR_BEAT),
        (Role.MIRROR, Role.OPERATOR, False, None),
    ],
)
def test_beats_go_one_way_from_whoever_is_nearer_to_the_origin(
    sender: Role, receiver: Role, *, is_dialler: bool, wanted: Span | None
) -> None:
    assert beat_of(sender, receiver, is_dialler=is_dialler) == wanted


def test_a_mirror_that_is_silent_for_three_seconds_is_dead() -> None:
    pulse = pulse_of(Role.AGENT, Role.MIRROR, START, is_mine=True, round_trip=Span(0.01))
    assert not pulse.is_dead(Instant(103.0))
    assert pulse.is_dead(Instant(103.1))
    pulse.heard_at = Instant(103.0)
    assert not pulse.is_dead(Instant(105.0))


def test_a_slow_line_gets_three_of_its_own_round_trips() -> None:
    pulse = pulse_of(Role.AGENT, Role.MIRROR, START, is_mine=True, round_trip=Span(4.0))
    assert not pulse.is_dead(Instant(112.0))
    assert pulse.is_dead(Instant(112.1))


def test_whoever_only_listens_is_never_dead_by_silence() -> None:
    pulse = pulse_of(Role.MIRROR, Role.AGENT, START, is_mine=False, round_trip=Span(0.0))
    assert not pulse.is_dead(Instant(10_000.0))


def test_a_beat_is_due_once_in_its_span() -> None:
    pulse = pulse_of(Role.MIRROR, Role.AGENT, START, is_mine=False, round_trip=Span(0.0))
    assert [pulse.is_due(Instant(100.0 + step / 2)) for step in range(5)] == [
        False,
        False,
        True,
        False,
        True,
    ]

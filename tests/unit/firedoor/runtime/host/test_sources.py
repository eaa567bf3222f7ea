"""Who is asked first for small files."""

from firedoor.errors import Absent
from firedoor.identity import PeerId
from firedoor.runtime.host import sources
from firedoor.runtime.host.sources import PAUSE_MAX, PAUSE_MIN, Sources
from firedoor.units import Instant, after

A, B, C = (PeerId(digit * 32) for digit in "abc")
NOW = Instant(10.0)


def test_the_one_that_is_meant_is_asked_first_among_equals() -> None:
    assert Sources().in_turn([A, B, C], B, NOW) == [B, A, C]
    assert Sources().in_turn([A, B, C], None, NOW) == [A, B, C]


def test_who_failed_comes_last_though_it_is_meant() -> None:
    asked = Sources()
    asked.failed(B, NOW)
    assert asked.in_turn([A, B, C], B, NOW) == [A, C, B]
    assert asked.in_turn([A, B, C], B, after(NOW, PAUSE_MIN)) == [B, A, C]


def test_the_pause_doubles_to_its_longest_and_ends_with_an_answer() -> None:
    asked = Sources()
    for _ in range(2):
        asked.failed(A, NOW)
    assert asked.is_paused(A, after(NOW, PAUSE_MIN))
    for _ in range(2000):
        asked.failed(A, NOW)
    assert not asked.is_paused(A, after(NOW, PAUSE_MAX))
    asked.failed(A, NOW)
    asked.answered(A)
    assert not asked.is_paused(A, NOW)


def test_no_more_failures_are_remembered_than_there_is_room_for() -> None:
    asked = Sources()
    asked.failed(A, NOW)
    for number in range(sources._REMEMBERED_MAX):
        asked.failed(PeerId(f"{number:032x}"), NOW)
    assert not asked.is_paused(A, NOW)


def test_that_a_peer_does_not_have_a_file_is_an_answer() -> None:
    assert Absent("timestamp.json", why="no such file here").code == "absent"

"""How fast an origin logs new orders of one key, and what it logs at once."""

from firedoor.halt.commit_queue import COMMITTED_EACH_SPAN, CommitQueue
from firedoor.limits import COMMITTED_AT_ONCE_MAX
from firedoor.units import Instant

THIEF, HONEST = frozenset({"thief"}), frozenset({"honest"})


def order(number: int) -> bytes:
    return number.to_bytes(32, "big")


def spent() -> CommitQueue:
    """One that has committed a whole burst of the thief's at 0."""
    book = CommitQueue()
    for number in range(COMMITTED_AT_ONCE_MAX):
        book.enter(order(number), THIEF, threshold=1)
    assert len(book.wake(Instant(0.0))) == COMMITTED_AT_ONCE_MAX
    return book


def test_a_burst_is_committed_at_once_and_then_one_in_a_while() -> None:
    book = spent()
    for number in range(100, 103):
        book.enter(order(number), THIEF, threshold=1)
    assert book.wake(Instant(COMMITTED_EACH_SPAN * 0.9)) == []
    assert book.next_wakeup(Instant(0.0)) == Instant(COMMITTED_EACH_SPAN)
    assert book.wake(Instant(COMMITTED_EACH_SPAN)) == [order(100)]
    assert book.wake(Instant(COMMITTED_EACH_SPAN * 1.5)) == []
    assert book.wake(Instant(COMMITTED_EACH_SPAN * 2)) == [order(101)]


def test_one_key_that_waits_holds_up_no_other() -> None:
    book = spent()
    book.enter(order(100), THIEF, threshold=1)
    book.enter(order(101), HONEST, threshold=1)
    assert book.wake(Instant(0.0)) == [order(101)]


def test_a_thiefs_signature_beside_an_honest_one_does_not_hold_an_order_up() -> None:
    book = spent()
    book.enter(order(100), THIEF | HONEST, threshold=1)
    assert book.wake(Instant(1.0)) == [order(100)]


def test_an_order_that_takes_two_keys_waits_for_both_and_uses_nothing_up() -> None:
    book = spent()
    book.enter(order(100), THIEF | HONEST, threshold=2)
    for _ in range(1000):
        assert book.wake(Instant(1.0)) == []
    for number in range(COMMITTED_AT_ONCE_MAX):
        book.enter(order(200 + number), HONEST, threshold=1)
    assert len(book.wake(Instant(1.0))) == COMMITTED_AT_ONCE_MAX


def test_a_burst_comes_back_whole_after_a_while() -> None:
    book = spent()
    for number in range(COMMITTED_AT_ONCE_MAX + 1):
        book.enter(order(100 + number), THIEF, threshold=1)
    later = Instant(COMMITTED_EACH_SPAN * COMMITTED_AT_ONCE_MAX)
    assert len(book.wake(later)) == COMMITTED_AT_ONCE_MAX


def test_what_was_recorded_or_named_before_is_committed_at_once() -> None:
    book = CommitQueue()
    known = [order(number) for number in range(4 * COMMITTED_AT_ONCE_MAX)]
    book.restore(known)
    for each in known:
        book.enter(each, THIEF, threshold=1)
    assert book.wake(Instant(0.0)) == []
    assert book.committed == set(known)
    assert book.next_wakeup(Instant(0.0)) is None


def test_an_order_that_a_beacon_names_while_it_waits_is_committed_once() -> None:
    book = spent()
    book.enter(order(100), THIEF, threshold=1)
    assert book.restore([order(100), order(7)]) == [order(100)]
    assert book.wake(Instant(COMMITTED_EACH_SPAN)) == []
    assert book.next_wakeup(Instant(COMMITTED_EACH_SPAN)) is None

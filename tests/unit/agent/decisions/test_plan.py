"""What runs next is the newest that may, never older than now unless a person named it."""

from collections.abc import Callable

import pytest

from agent.decisions.plan import Offer, Running, choose, way_back


def an_offer(counter: int, *, content: bytes = b"", product: str = "app") -> Offer:
    manifest = f"{counter:064x}"
    return Offer(product, f"{counter}.0", counter, manifest, content or bytes([counter]) * 32)


ONE, TWO, THREE = (an_offer(counter) for counter in (1, 2, 3))
ALL = (TWO, THREE, ONE)


def but(*refused: Offer) -> Callable[[Offer], bool]:
    return lambda offer: offer not in refused


def chosen(
    wanted: str = "newest",
    *,
    active: Offer | None = None,
    failed: tuple[Offer, ...] = (),
    refused: tuple[Offer, ...] = (),
) -> Offer | None:
    contents = frozenset(offer.content for offer in failed)
    running = Running(active.manifest, active.counter) if active else None
    return choose(wanted, ALL, running=running, failed=contents, permits=but(*refused))


def test_the_newest_by_counter_is_chosen_whatever_the_order() -> None:
    assert chosen() == THREE
    assert chosen(active=ONE) == THREE


def test_what_is_newest_already_stays() -> None:
    assert chosen(active=THREE) is None


def test_a_halted_release_is_passed_over_for_the_next() -> None:
    assert chosen(active=ONE, refused=(THREE,)) == TWO
    assert chosen(refused=ALL) is None


def test_newest_never_means_older_than_now() -> None:
    assert chosen(active=THREE, refused=(THREE,)) is None
    assert chosen(active=TWO, failed=(TWO, THREE)) is None


def test_content_that_failed_here_is_not_taken_under_any_name() -> None:
    assert chosen(failed=(THREE,)) == TWO
    again = an_offer(9, content=THREE.content)
    found = choose(
        "newest",
        (*ALL, again),
        running=None,
        failed=frozenset({THREE.content}),
        permits=but(),
    )
    assert found == TWO


@pytest.mark.parametrize("active", [None, ONE, THREE])
def test_a_named_version_is_taken_even_downwards(active: Offer | None) -> None:
    assert chosen("2.0", active=active) == TWO


def test_a_named_version_waits_rather_than_becoming_another() -> None:
    assert chosen("2.0", active=TWO) is None
    assert chosen("2.0", refused=(TWO,)) is None
    assert chosen("2.0", failed=(TWO,)) is None
    assert chosen("7.0", active=ONE) is None


def test_of_two_with_one_counter_every_endpoint_takes_the_same() -> None:
    twin = Offer("app", "2.1", 2, "f" * 64, bytes(32))
    for offers in ((TWO, twin), (twin, TWO)):
        found = choose("newest", offers, running=None, failed=frozenset(), permits=but())
        assert found == twin


def test_nothing_offered_is_nothing_chosen() -> None:
    assert choose("newest", (), running=None, failed=frozenset(), permits=but()) is None


def test_newest_is_not_older_than_a_release_that_the_list_no_longer_has() -> None:
    gone = Running("f" * 64, 4)
    assert choose("newest", ALL, running=gone, failed=frozenset(), permits=but()) is None
    older = Running("f" * 64, 2)
    assert choose("newest", ALL, running=older, failed=frozenset(), permits=but()) == THREE


# --- the way back ------------------------------------------------------------------------------


def back(*kept: str, staged: str = "abc", refused: str = "") -> str | None:
    """The way back from release `c`."""
    return way_back("c", kept, staged=frozenset(staged), permits=lambda each: each not in refused)


def test_the_way_back_is_what_last_ran_well() -> None:
    assert back("b", "a") == "b"


def test_a_release_that_was_well_until_it_was_halted_goes_back_to_the_one_before() -> None:
    assert back("c", "b") == "b"


def test_a_halted_or_removed_release_is_no_way_back() -> None:
    assert back("b", "a", refused="b") == "a"
    assert back("b", "a", staged="ac") == "a"


def test_without_a_good_release_there_is_no_way_back() -> None:
    assert back() is None
    assert back("c", "") is None
    assert back("b", "a", refused="ab") is None

"""What runs next is the newest that may, never older than now unless a person named it."""

from collections.abc import Callable

import pytest

from agent.plan import Offer, choose


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
    name = active.manifest if active else None
    return choose(wanted, ALL, active=name, failed=contents, permits=but(*refused))


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
        active=None,
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
        found = choose("newest", offers, active=None, failed=frozenset(), permits=but())
        assert found == twin


def test_nothing_offered_is_nothing_chosen() -> None:
    assert choose("newest", (), active=None, failed=frozenset(), permits=but()) is None

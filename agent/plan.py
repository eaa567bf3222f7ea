"""Which release of a product this endpoint should run next, if another than now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """One release in signed metadata. `counter`: the publisher's order of releases."""

    product: str
    version: str
    counter: int
    manifest: str
    content: bytes


def choose(
    wanted: str,
    offers: Sequence[Offer],
    *,
    active: str | None,
    failed: frozenset[bytes],
    permits: Callable[[Offer], bool],
) -> Offer | None:
    """The release to move to; None when what runs is right or nothing better may run.

    `wanted` is "newest" or one version. Newest never means older than what is active; a version
    that the settings name is taken even downwards. What failed here, by content, is not taken.
    """
    running = next((offer for offer in offers if offer.manifest == active), None)
    able = [offer for offer in offers if offer.content not in failed and permits(offer)]
    if wanted != "newest":
        able = [offer for offer in able if offer.version == wanted]
    best = max(able, key=_rank, default=None)
    if best is None or best.manifest == active:
        return None
    if wanted == "newest" and running is not None and best.counter <= running.counter:
        return None
    return best


def _rank(offer: Offer) -> tuple[int, str]:
    return offer.counter, offer.manifest

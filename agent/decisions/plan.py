"""Which release of a product this endpoint should run next, and which it can step back to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """One release in signed metadata. `counter`: the publisher's order of releases."""

    product: str
    version: str
    counter: int
    manifest: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """The active release. `counter` is 0 when nothing that is kept here says it."""

    manifest: str
    counter: int


def choose(
    wanted: str,
    offers: Sequence[Offer],
    *,
    running: Running | None,
    failed: frozenset[bytes],
    permits: Callable[[Offer], bool],
) -> Offer | None:
    """The release to move to; None when what runs is right or nothing better may run.

    `wanted` is "newest" or one version. Newest never means older than what is active, even where
    signed metadata no longer lists that; a version that the settings name is taken even downwards.
    What failed here, by content, is not taken.
    """
    able = [offer for offer in offers if offer.content not in failed and permits(offer)]
    if wanted != "newest":
        able = [offer for offer in able if offer.version == wanted]
    best = max(able, key=_rank, default=None)
    if best is None or running is None:
        return best
    is_step_up = wanted != "newest" or best.counter > running.counter
    return best if is_step_up and best.manifest != running.manifest else None


def way_back(
    manifest: str,
    kept: Iterable[str],
    *,
    staged: frozenset[str],
    permits: Callable[[str], bool],
) -> str | None:
    """The release to leave `manifest` for; None: there is none, so what runs is left running.

    `kept`: releases that ran well here, the last one first; `permits`: whether one may run.
    """
    able = (each for each in kept if each and each != manifest and each in staged)
    return next((each for each in able if permits(each)), None)


def _rank(offer: Offer) -> tuple[int, str]:
    return offer.counter, offer.manifest

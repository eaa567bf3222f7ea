"""Whom to ask first for small files: those who answered before those who did not.

A source that fails, or that does not have what it claimed, goes last for a pause that doubles each
time. It is still asked then: where it is the only one, it is better than nobody.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from firedoor.identity import PeerId
from firedoor.limits import ROSTER_MAX
from firedoor.units import Instant, Span, after

# The first pause is about one more failure long; the longest lets a mirror that was mended be
# first again within minutes.
PAUSE_MIN = Span(2.0)
PAUSE_MAX = Span(300.0)

# Failures are forgotten in the order in which they came once so many sources have failed.
_REMEMBERED_MAX = 2 * ROSTER_MAX


@dataclass(slots=True)
class _Record:
    failures: int
    until: Instant


class Sources:
    """What this node remembers of those whom it has asked."""

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: dict[PeerId, _Record] = {}

    def failed(self, peer: PeerId, now: Instant) -> None:
        """It did not answer in time, or did not have what it had claimed."""
        known = self._records.pop(peer, None)
        failures = known.failures + 1 if known is not None else 1
        pause = min(PAUSE_MIN * 2 ** min(failures - 1, 10), PAUSE_MAX)
        self._records[peer] = _Record(failures, after(now, Span(pause)))
        if len(self._records) > _REMEMBERED_MAX:
            del self._records[next(iter(self._records))]

    def answered(self, peer: PeerId) -> None:
        """It brought what was asked for."""
        self._records.pop(peer, None)

    def is_paused(self, peer: PeerId, now: Instant) -> bool:
        """Whether others come before it."""
        known = self._records.get(peer)
        return known is not None and now < known.until

    def in_turn(self, peers: Iterable[PeerId], first: PeerId | None, now: Instant) -> list[PeerId]:
        """The same peers: those in no pause before the others, and among equals `first`."""
        return sorted(peers, key=lambda peer: (self.is_paused(peer, now), peer != first))

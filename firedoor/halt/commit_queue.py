"""Which recorded orders an origin *commits*: names in its beacons, and counts in its leases.

* Of one key it commits a burst that no operator types, and then one in ten seconds. What waits is
  obeyed and forwarded all the same; only the bound of S2 begins with the commit.
* Every peer holds few uncommitted orders of a key, so a thief of a halt key cannot fill a fleet's
  order set in seconds: its people have hours to revoke the key.
* What a beacon has named before, or this node had recorded before it started, is committed at once:
  an origin that was set back must not wait for what it had.

Source: halt/README.md, Paths (bounds) and Authority (rate limits that hold are at the origin).
"""

from collections.abc import Iterable

from firedoor.limits import COMMITTED_AT_ONCE_MAX
from firedoor.units import Instant, Span, after, between

# With a burst of 64 it takes a thief nearly three hours to fill the share of a key.
COMMITTED_EACH_SPAN = Span(10.0)


class CommitQueue:
    """The orders of one node that wait, and the ids of those that are `committed`."""

    __slots__ = ("_used", "_waiting", "committed")

    def __init__(self) -> None:
        self.committed: set[bytes] = set()
        # By key id: how much of the burst was used, and when.
        self._used: dict[str, tuple[float, Instant]] = {}
        # By id: who has signed it, and how many of them it takes.
        self._waiting: dict[bytes, tuple[frozenset[str], int]] = {}

    def restore(self, order_ids: Iterable[bytes]) -> list[bytes]:
        """These were recorded before this node started, or a beacon has named them.

        Returns those of them that waited here.
        """
        known = set(order_ids)
        self.committed |= known
        held = [each for each in self._waiting if each in known]
        for each in held:
            del self._waiting[each]
        return held

    def enter(self, order_id: bytes, keyids: frozenset[str], *, threshold: int) -> None:
        """This order, which these keys have signed, is recorded here; `wake` commits it.

        `threshold`: so many of them are enough, so the busiest of the others do not hold it up.
        """
        if order_id not in self.committed:
            self._waiting[order_id] = (keyids, threshold)

    def wake(self, now: Instant) -> list[bytes]:
        """Commit what may be committed now, the oldest first; the ids of those."""
        done = [each for each, facts in [*self._waiting.items()] if self._takes(*facts, now)]
        for each in done:
            del self._waiting[each]
        self.committed.update(done)
        return done

    def next_wakeup(self, now: Instant) -> Instant | None:
        """When `wake` may log the next; None: nothing waits."""
        waits = [
            max((self._wait_of(each, now) for each in self._idlest(*facts, now)), default=0.0)
            for facts in self._waiting.values()
        ]
        return after(now, Span(min(waits))) if waits else None

    def _idlest(self, keyids: frozenset[str], count: int, now: Instant) -> list[str]:
        return sorted(keyids, key=lambda keyid: (self._used_by(keyid, now), keyid))[:count]

    def _takes(self, keyids: frozenset[str], threshold: int, now: Instant) -> bool:
        idlest = self._idlest(keyids, threshold, now)
        used = {keyid: self._used_by(keyid, now) + 1 for keyid in idlest}
        is_taken = max(used.values(), default=0) <= COMMITTED_AT_ONCE_MAX
        if is_taken:
            self._used |= {keyid: (count, now) for keyid, count in used.items()}
        return is_taken

    def _used_by(self, keyid: str, now: Instant) -> float:
        count, since = self._used.get(keyid, (0.0, now))
        return max(0.0, count - between(since, now) / COMMITTED_EACH_SPAN)

    def _wait_of(self, keyid: str, now: Instant) -> float:
        return max(
            0.0, (self._used_by(keyid, now) + 1 - COMMITTED_AT_ONCE_MAX) * COMMITTED_EACH_SPAN
        )

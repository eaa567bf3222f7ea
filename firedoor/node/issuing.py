"""What a node with a beacon key issues: which orders it commits, and for what it vouches.

The origin has such a key; so may a mirror right below it. By itself that is a second origin's: it
makes beacons always, and leases while nothing above it answers. With others it is a witness's.
halt/commit_queue.py and countersigning.py have the rules; the host has the key.
"""

from collections.abc import Collection

from firedoor.effects import Effect, Tell
from firedoor.halt.commit_queue import CommitQueue
from firedoor.halt.envelope import threshold_of
from firedoor.halt.order import Order
from firedoor.halt.orderset import OrderSet
from firedoor.node.countersigning import Countersigning, makes_leases_alone
from firedoor.node.session import Session
from firedoor.node.settings import NodeSettings
from firedoor.trust.keys import Authority
from firedoor.units import Instant


class Issuing:
    """What one node commits, and signs with others; nothing where it has no beacon key."""

    __slots__ = ("_commit_queue", "_settings", "countersigning")

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._commit_queue = CommitQueue()
        self.countersigning = Countersigning(is_origin=settings.is_origin)

    def is_second_origin(self, authority: Authority | None, *, is_reconciled: bool) -> bool:
        """Whether a beacon key of this mirror, which is not the origin, counts by itself.

        Not before it has caught up since its start: it may have been set back.
        """
        key = self._settings.beacon_key
        is_ready = bool(key) and authority is not None and is_reconciled
        return is_ready and authority is not None and makes_leases_alone(key, authority)

    def restore(self, recorded: Collection[bytes], vouched: Collection[bytes]) -> None:
        """These were recorded by an earlier run, and that was signed for."""
        self._commit_queue.restore(recorded)
        self.countersigning.restore(vouched)

    def recorded(self, order: Order | None, authority: Authority) -> None:
        """This order is durable here; `wake` commits it."""
        has_key = self._settings.is_origin or self._settings.beacon_key
        if has_key and order is not None:
            threshold = threshold_of(order.kind, authority)
            self._commit_queue.enter(order.id, order.signers, threshold=threshold)

    def named(self, ids: Collection[bytes]) -> list[Effect]:
        """A beacon names these, so they are committed somewhere, and here too."""
        return _told(self._commit_queue.restore(ids))

    def committed_ids(self, orders: OrderSet, durable: Collection[bytes]) -> tuple[bytes, ...]:
        """The orders that beacons and leases of this node are over, sorted."""
        return tuple(
            each for each in _vouched(orders, durable) if each in self._commit_queue.committed
        )

    def wake(self, now: Instant) -> list[Effect]:
        """Commit what may be committed now."""
        return _told(self._commit_queue.wake(now))

    def next_wakeup(self, now: Instant) -> Instant | None:
        """When `wake` is due."""
        return self._commit_queue.next_wakeup(now)

    def vouch(
        self, orders: OrderSet, durable: Collection[bytes], authority: Authority
    ) -> list[Effect]:
        """Sign for the origin what can be signed by now."""
        if not self.countersigning.is_asked:
            return []
        return self.countersigning.due(_vouched(orders, durable), orders, authority)

    def heard(
        self, session: Session, record: bytes, authority: Authority
    ) -> tuple[str, bytes] | None:
        """A record to sign came from above, or one with more signatures from below.

        Returns the kind and the record once it is whole. Raises as `Countersigning`.
        """
        if self._settings.beacon_key and session.is_upstream:
            self.countersigning.asked(session.peer.id, record)
            return None
        return self.countersigning.answered(session, record, authority)


def _told(committed: Collection[bytes]) -> list[Effect]:
    return [Tell("order-logged", (("order", each.hex()),)) for each in committed]


def _vouched(orders: OrderSet, durable: Collection[bytes]) -> tuple[bytes, ...]:
    """What is durable here and counted by keys of today, sorted.

    The rest is obeyed as well, but whoever never knew its keys cannot hold it.
    """
    return tuple(each for each in orders.counted() if each in durable)

"""What the origin has named: beacons as one node takes them in, passes them on and keeps them.

* A beacon that names something new, or by another key, goes on at once; others end here.
* One that names nothing new may list less, after a compaction, if those above say so.

halt/orderset.py has the names, countersigning.py what takes several keys.
"""

from collections.abc import Collection

from firedoor.effects import Effect, KeepBeacon
from firedoor.halt.orderset import OrderSet
from firedoor.node.forwarding import Spreading
from firedoor.node.session import Session
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span, after
from firedoor.wire.messages import Beacon

# A beacon from elsewhere that names nothing new is heeded this often.
SHRINK_SPAN = Span(10.0)


class Naming:
    """The beacons of one node."""

    __slots__ = ("_orders", "_shrunk_until", "_spreading")

    def __init__(self, orders: OrderSet, spreading: Spreading) -> None:
        self._orders = orders
        self._spreading = spreading
        self._shrunk_until = Instant(0.0)

    def take(
        self,
        record: bytes,
        sender: Session | None,
        sessions: Collection[Session],
        authority: Authority,
        now: Instant,
    ) -> list[Effect]:
        """A beacon came from `sender`, or was just made here; nothing where it is no news.

        Raises:
            TooLarge, Malformed, Untrusted: as `OrderSet.name`.
        """
        orders = self._orders
        if orders.is_judged(record, authority):
            self._spreading.heard(record, sender, now)
            return []
        named = orders.name(record, authority)
        record = named.record
        orders.beacon = orders.beacon or record
        is_above = sender is None or sender.is_upstream
        is_valid = orders.has_valid_beacon(authority)
        is_settled = is_valid and not (is_above and named.is_list_new) and not named.is_key_new
        if not named.fresh and (is_settled or record == orders.beacon):
            return []
        if not named.fresh and sender is not None:
            # Old beacons in turns are each another list; a compaction is one, on a quiet day.
            if now < self._shrunk_until:
                return []
            self._shrunk_until = after(now, SHRINK_SPAN)
        orders.beacon, orders.beacon_list = record, named.digest
        forward = self._spreading.spread(record, Beacon(record), sessions, sender, now)
        return [*forward, KeepBeacon(record)]

    def restore(self, record: bytes, authority: Authority) -> None:
        """Take back the beacon that an earlier run kept; raises as `OrderSet.name`."""
        named = self._orders.name(record, authority)
        self._orders.beacon = self._orders.beacon or named.record
        self._orders.beacon_list = named.digest

"""Beacons and leases: records by beacon keys, as one node admits, completes and passes them on.

A record by too few keys goes to the witnesses first (countersigning.py). A refused one is counted
and said once in its conversation; one that brings nothing else ends.
"""

from collections.abc import Mapping

from firedoor.effects import Effect
from firedoor.errors import Refused
from firedoor.halt.orderset import OrderSet
from firedoor.identity import PeerId
from firedoor.node.beacons import Naming
from firedoor.node.countersigning import is_short
from firedoor.node.enforcement import Enforcement
from firedoor.node.issuing import Issuing
from firedoor.node.leasing import Leasing
from firedoor.node.order_book import OrderBook
from firedoor.node.session import Session, sync_for_room, tell_committed
from firedoor.trust.keys import Authority
from firedoor.units import Instant
from firedoor.wire.messages import LeaseGiven


class BeaconRecords:
    """What one node does with each beacon and lease. `sessions` is the node's."""

    __slots__ = (
        "_book",
        "_enforcement",
        "_issuing",
        "_leasing",
        "_naming",
        "_orders",
        "_sessions",
    )

    def __init__(
        self,
        orders: OrderSet,
        sessions: Mapping[PeerId, Session],
        *,
        naming: Naming,
        issuing: Issuing,
        leasing: Leasing,
        book: OrderBook,
        enforcement: Enforcement,
    ) -> None:
        self._orders = orders
        self._sessions = sessions
        self._naming = naming
        self._issuing = issuing
        self._leasing = leasing
        self._book = book
        self._enforcement = enforcement

    def restore(self, beacon: bytes, authority: Authority) -> None:
        """Take back the beacon that an earlier run kept; empty: none."""
        try:
            if beacon:
                self._naming.restore(beacon, authority)
        except Refused as error:
            # Its key was rotated; the origin's next beacon names all of it again.
            self._book.count(error)

    def admit_beacon(
        self, record: bytes, sender: PeerId | None, authority: Authority, now: Instant
    ) -> list[Effect]:
        """A beacon came from `sender`, or was just made here."""
        session = self._sessions[sender] if sender is not None else None
        sessions = self._sessions.values()
        try:
            if sender is None and is_short(record, authority):
                return self._issuing.countersigning.ask(record, sessions)
            news = self._naming.take(record, session, sessions, authority, now)
        except Refused as error:
            return self._refuse("beacon", sender, error)
        if session is not None:
            session.sync.has_untrusted_beacon = False
        told = [*news, *self._issuing.named(self._orders.named)]
        told += tell_committed(sessions, self._orders, authority)
        acts = self._enforcement.apply(authority, now) if news else []
        again = sync_for_room(sessions) if news and self._orders.lacks_named() else []
        return [*acts, *told, *self._book.vouch(authority), *again]

    def admit_lease(
        self, given: LeaseGiven, sender: PeerId | None, authority: Authority, now: Instant
    ) -> list[Effect]:
        """A lease came from `sender`, or was just signed here."""
        try:
            return self._leasing.given(given, sender, authority, now)
        except Refused as error:
            # A hostile relay can withhold a lease; that is all it can do.
            return self._refuse("lease", sender, error)

    def issue_lease(self, record: bytes, authority: Authority, now: Instant) -> list[Effect]:
        """A lease is signed here, as far as it is signed here."""
        if is_short(record, authority):
            return self._issuing.countersigning.ask(record, self._sessions.values())
        return self.admit_lease(LeaseGiven(record, ()), None, authority, now)

    def countersign(
        self, session: Session, record: bytes, authority: Authority, now: Instant
    ) -> list[Effect]:
        """A record to sign came from above, or one with more signatures from below."""
        whole = self._issuing.heard(session, record, authority)
        if whole is None:
            is_held = self._orders.expect(self._issuing.countersigning.wanted(authority))
            again = [] if is_held else sync_for_room(self._sessions.values())
            return [*self._book.vouch(authority), *again]
        kind, signed = whole
        if kind == "beacon":
            return self.admit_beacon(signed, None, authority, now)
        return self.issue_lease(signed, authority, now)

    def _refuse(self, what: str, sender: PeerId | None, error: Refused) -> list[Effect]:
        self._book.count(error)
        session = self._sessions.get(sender or PeerId(""))
        return session.sync.refuse_other(what, error) if session is not None else []

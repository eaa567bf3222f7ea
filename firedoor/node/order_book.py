"""The orders of one node on their way: admitted, forwarded, recorded, compacted.

A new order closes the brake, cuts transfers and is forwarded before it is recorded (halt/README.md,
Paths). halt/orderset.py has the set itself, enforcement.py what it stops.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from firedoor.effects import Cut, Effect, Keep, KeepForgotten, Tell
from firedoor.errors import Refused
from firedoor.halt.orderset import Admission, OrderSet
from firedoor.identity import PeerId
from firedoor.node.enforcement import Enforcement
from firedoor.node.forwarding import Spreading
from firedoor.node.issuing import Issuing
from firedoor.node.session import Session, note_handed, tell_committed, tell_operators
from firedoor.trust.keys import Authority
from firedoor.units import Instant
from firedoor.wire.messages import Obeyed, OrderRefused, Orders, Recorded


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier run of a node has recorded: orders, the last beacon, and ids.

    `acted`: of what lifts and has begun to; `forgotten`: of what a compaction left out since it was
    recorded; `vouched`: for what this node, a witness, has signed; `decided`: records of what halts
    reach here; `known`: of releases that a halt names.
    """

    orders: tuple[bytes, ...] = ()
    beacon: bytes = b""
    acted: tuple[bytes, ...] = ()
    forgotten: Collection[bytes] = ()
    vouched: Collection[bytes] = ()
    decided: tuple[bytes, ...] = ()
    known: tuple[bytes, ...] = ()


class OrderBook:
    """What this node has done with each order.

    `durable`: ids of recorded orders; `forgotten`: of those that a compaction left out since they
    were recorded; `refusals`: how many signed records were refused, by error code.
    """

    __slots__ = (
        "_enforcement",
        "_issuing",
        "_orders",
        "_sessions",
        "_spreading",
        "durable",
        "forgotten",
        "refusals",
    )

    def __init__(
        self,
        orders: OrderSet,
        enforcement: Enforcement,
        spreading: Spreading,
        issuing: Issuing,
        sessions: Mapping[PeerId, Session],
    ) -> None:
        self._orders = orders
        self._enforcement = enforcement
        self._spreading = spreading
        self._issuing = issuing
        self._sessions = sessions
        self.durable: set[bytes] = set()
        self.forgotten: set[bytes] = set()
        self.refusals: dict[str, int] = {}

    def restore(self, kept: Kept, authority: Authority) -> None:
        """Load what an earlier run recorded."""
        orders = self._orders
        self.durable |= {orders.restore(record, authority).id for record in kept.orders}
        self.forgotten |= orders.forget_all(kept.forgotten)
        orders.restore_acted(kept.acted)
        self._issuing.restore(self.durable, kept.vouched)

    def compact(self, authority: Authority) -> list[Effect]:
        """Leave out what no order in force needs."""
        gone = self._orders.compact(authority)
        self.forgotten |= gone
        return [KeepForgotten(order) for order in sorted(gone)]

    def admit(
        self, record: bytes, sender: PeerId | None, authority: Authority, now: Instant
    ) -> list[Effect]:
        """Admit one order and do what it asks for; raises as `OrderSet.admit`."""
        admission, order = self._orders.admit(record, authority)
        given_by = [self._sessions[sender]] if sender is not None else []
        for session in given_by:
            note_handed(session, order.id)
        if admission is Admission.SIGNED_ANEW:
            return [*self._forward(order.record, sender, now), Keep(order.id, order.record)]
        if admission is Admission.KNOWN:
            self._spreading.heard(record, self._sessions.get(sender or PeerId("")), now)
            done = Recorded((order.id,))
            said = tell_operators(given_by, done) if order.id in self.durable else []
            return [*said, *tell_committed(given_by, self._orders, authority)]
        cut = self._enforcement.apply(authority, now)
        forward = self._forward(order.record, sender, now)
        tell = Tell(f"{order.kind}-admitted", (("order", order.id.hex()),))
        said = tell_operators(given_by, Obeyed((order.id,)))
        return [Cut(order.id), *cut, *forward, *said, Keep(order.id, order.record), tell]

    def admit_all(
        self, records: Iterable[bytes], sender: PeerId, authority: Authority, now: Instant
    ) -> list[Effect]:
        """Admit what a peer sent; what is refused is counted, and too much of it ends there."""
        effects: list[Effect] = []
        for record in records:
            try:
                effects += self.admit(record, sender, authority, now)
            except Refused as error:
                self.count(error)
                session = self._sessions[sender]
                effects += tell_operators([session], OrderRefused(str(error)[:400]))
                effects += session.sync.refuse(error)
                if session.sync.is_spent:
                    break  # The rest would cost a verification each, for nobody.
        return effects

    def record(self, order_id: bytes, authority: Authority) -> list[Effect]:
        """The host has made this order durable: tell connected operators, and sign what can be."""
        self.durable.add(order_id)
        self._issuing.recorded(self._orders.get(order_id), authority)
        told = tell_operators(self._sessions.values(), Recorded((order_id,)))
        return [*told, *self.vouch(authority)]

    def vouch(self, authority: Authority) -> list[Effect]:
        """Sign for the origin what can be signed by now."""
        return self._issuing.vouch(self._orders, self.durable, authority)

    def count(self, error: Refused) -> None:
        """A signed record was refused."""
        self.refusals[error.code] = self.refusals.get(error.code, 0) + 1

    def _forward(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        told = [one for one in self._sessions.values() if one.sync.may_be_told]
        from_session = self._sessions.get(sender) if sender is not None else None
        return self._spreading.spread(record, Orders((record,)), told, from_session, now)

"""Sync before bytes: one conversation's exchange of orders, and when a node has caught up.

* Digests first; where they differ, each side lists its ids and is sent every order that it lacks.
  Equality is not the condition for pieces to move, *nothing undelivered* is: a liar, or two key
  versions, would stall equality for ever.
* After a start an endpoint moves and activates nothing until it has synced with one mirror that
  has caught up itself, or with one peer where no mirror is configured or found. A mirror goes on
  serving meanwhile, fetches nothing, and brings nobody up to date before it has heard its upstream,
  or has a lease by stick.

Source: halt/README.md, Paths and S1.
"""

from dataclasses import dataclass, field

from firedoor.effects import Drop, Effect, Send, Tell
from firedoor.errors import Malformed, Refused, ShareFull, Untrusted
from firedoor.halt.envelope import CONTROLLER_HALT
from firedoor.halt.orderset import OrderSet
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import (
    FRAME_BYTES_MAX,
    HINT_PATIENCE,
    MIRROR_PATIENCE,
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    REFUSALS_MAX,
)
from firedoor.units import Instant, after
from firedoor.wire.messages import Hello, OrderIds, Orders, OrdersDone


@dataclass(slots=True)
class OrderSync:
    """What was exchanged on one conversation.

    `sent_digest`: of the set when our hello went out. `has_untrusted`: the peer sent what no key
    that is known here has signed: junk, or by a key that is newer than our metadata. So nobody is
    brought up to date by such a conversation. `has_unknown`: so, or the halt of a controller that
    is not known here; after the next metadata the conversation begins anew. `has_no_room`: it sent
    what there was no room for; once that is named, there is. `has_untrusted_beacon`: its last one
    was by nobody that is known here; after a rotation it may have no newer one yet, and sends it.
    `told`: of which refusals a line was written.
    """

    peer: Peer
    sent_digest: bytes
    is_greeted: bool = False
    has_delivered: bool = False
    has_received: bool = False
    has_caught_up: bool = False
    has_untrusted: bool = False
    has_unknown: bool = False
    has_no_room: bool = False
    has_untrusted_beacon: bool = False
    refused: int = 0
    told: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether nothing is undelivered in either direction."""
        return self.has_delivered and self.has_received

    @property
    def may_be_told(self) -> bool:
        """Whether a new order is forwarded at once; before its hello the sync will deliver it."""
        return self.is_greeted or self.peer.role is Role.OPERATOR

    def greet(self, hello: Hello, orders: OrderSet) -> list[Effect]:
        """The peer's hello came.

        Raises:
            Malformed: it is the second.
        """
        if self.is_greeted:
            raise Malformed("hello", wanted="one", got="a second")
        self.is_greeted = True
        if hello.orders != self.sent_digest:
            return [Send(self.peer.id, OrderIds(orders.offered()))]
        self.has_delivered = self.has_received = True
        # What was admitted after our hello went out was not forwarded before theirs came.
        is_late = orders.digest() != self.sent_digest
        return send_orders(self.peer.id, orders.records_but(())) if is_late else []

    def deliver(self, ids: tuple[bytes, ...], orders: OrderSet) -> list[Effect]:
        """The peer holds these orders, and no others.

        Raises:
            Malformed: it has said so before; each list may cost a whole set.
        """
        if self.has_delivered:
            raise Malformed("order ids", wanted="one list", got="a second")
        self.has_delivered = True
        missing = send_orders(self.peer.id, orders.records_but(ids))
        return [*missing, Send(self.peer.id, OrdersDone())]

    @property
    def is_spent(self) -> bool:
        """Whether too many orders of this peer were refused to hear more of it."""
        # After a rotation a mirror may send a whole set that our metadata is too old for.
        limit = ORDERS_MAX if self.peer.role is Role.MIRROR else REFUSALS_MAX
        return self.refused >= limit

    def refuse(self, error: Refused) -> list[Effect]:
        """An order from this peer was refused; one too many ends the conversation."""
        self.refused += 1
        self.has_unknown |= isinstance(error, Untrusted)
        self.has_no_room |= isinstance(error, ShareFull)
        # A controller's halt whose release is not listed here stops nothing here, for what is not
        # listed is not installed; so it keeps nobody from catching up.
        is_controllers = isinstance(error, Untrusted) and error.what == CONTROLLER_HALT
        self.has_untrusted |= isinstance(error, Untrusted) and not is_controllers
        if self.is_spent:
            return [Drop(self.peer.id, "it sent too many orders that were refused")]
        facts = (("peer", self.peer.id), ("why", str(error)))
        # One line a conversation; the node's counter has them all.
        return [Tell("order-refused", facts)] if self.refused == 1 else []

    def refuse_other(self, what: str, error: Refused) -> list[Effect]:
        """A beacon or a lease from this peer was refused; one too many ends the conversation."""
        # A mirror too: of these it has one each, however many orders it has.
        self.refused += ORDERS_MAX // REFUSALS_MAX if self.peer.role is Role.MIRROR else 1
        if what == "beacon":
            self.has_unknown |= isinstance(error, Untrusted)
            self.has_untrusted_beacon = isinstance(error, Untrusted)
        if self.is_spent:
            return [Drop(self.peer.id, f"it sent too much that was refused, a {what} last")]
        is_first = what not in self.told
        self.told.add(what)
        # One line a conversation; the node's counter has them all.
        facts = (("peer", self.peer.id), ("why", str(error)))
        return [Tell(f"{what}-refused", facts)] if is_first else []


class Reconciliation:
    """Whether a node has caught up with the orders of its fleet since its start."""

    __slots__ = ("_has_mirrors", "_is_expected", "_may_be_peer", "_peer_at", "_role", "is_done")

    def __init__(self, role: Role, *, is_done: bool, has_mirrors: bool, now: Instant) -> None:
        self._role = role
        self._has_mirrors = has_mirrors
        self._peer_at = after(now, MIRROR_PATIENCE)
        self._is_expected = False
        self._may_be_peer = False
        self.is_done = is_done

    def expect_mirror(self, now: Instant) -> None:
        """A mirror is near, says a hint: no mere peer will do until it has had time to answer."""
        if not self._is_expected:
            self._is_expected = True
            self._peer_at = max(self._peer_at, after(now, HINT_PATIENCE))
            self._may_be_peer = False

    def wake(self, now: Instant) -> None:
        """Do what is due: no mirror was found in time, so a mere peer will do."""
        self._may_be_peer = self._may_be_peer or now >= self._peer_at

    def takes(self, sync: OrderSync, *, is_upstream: bool) -> bool:
        """Whether a conversation brings this node up to date, which it was not."""
        is_operator = sync.peer.role is Role.OPERATOR
        is_doubtful = sync.has_untrusted or sync.has_untrusted_beacon
        if self.is_done or not sync.is_open or is_doubtful or is_operator:
            return False
        by_upstream = is_upstream and sync.has_caught_up
        by_peer = self._is_alone and self._may_be_peer and sync.peer.is_current
        return by_upstream or by_peer

    def next_wakeup(self) -> Instant | None:
        """When a mere peer will do; None: never, or it is done."""
        is_waiting = self._is_alone and not self.is_done and not self._may_be_peer
        return self._peer_at if is_waiting else None

    @property
    def _is_alone(self) -> bool:
        return not self._has_mirrors and self._role is Role.AGENT


def send_orders(peer: PeerId, records: tuple[bytes, ...]) -> list[Effect]:
    """These records to `peer`, in as many frames as they need."""
    # So many records of the largest size fit one frame.
    share = FRAME_BYTES_MAX // (ORDER_BYTES_MAX + 8) - 1
    parts = [records[at : at + share] for at in range(0, len(records), share)]
    return [Send(peer, Orders(part)) for part in parts]

"""One conversation as the node sees it: with whom, how far its orders are, what it asked for.

An operator who handed an order over is told how far it is: obeyed, recorded, committed; or refused.
Committed means that every lease from now on has the order: of the keys that make leases, too few
for one have yet to say that they hold it. Others are told nothing: they hear of orders as orders.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from firedoor.effects import Drop, Effect, Send
from firedoor.halt.orderset import OrderSet
from firedoor.halt.sync import OrderSync
from firedoor.identity import Peer, PeerId, Role
from firedoor.trust.keys import Authority
from firedoor.wire.messages import Logged, Obeyed, OrderRefused, Recorded


@dataclass(slots=True)
class Session:
    """One conversation. `is_upstream`: pieces and metadata come from there.

    `roster`: whom it, a mirror, tells of new orders itself; `has_roster`: it was told this mirror's
    own, so that only changes follow; `is_witness`: it holds a beacon key and countersigns;
    `handed`: what this operator has handed over and whose commit it was not told of yet.
    """

    peer: Peer
    host: str
    is_upstream: bool
    sync: OrderSync
    port: int = 0
    roster: frozenset[PeerId] = frozenset()
    has_roster: bool = False
    interests: dict[str, None] = field(default_factory=dict)
    is_witness: bool = False
    handed: set[bytes] = field(default_factory=set)


def sync_anew(sessions: Iterable[Session], why: str) -> list[Effect]:
    """End these conversations, but for people's; they come back and begin with their orders."""
    peers = [one.peer for one in sessions if one.peer.role is not Role.OPERATOR]
    return [Drop(peer.id, f"{why}; syncing anew") for peer in peers]


def sync_for_room(sessions: Iterable[Session]) -> list[Effect]:
    """Sync anew with whoever sent what there was no room for: it was committed since."""
    heard = [one for one in sessions if one.sync.has_no_room]
    for session in heard:
        session.sync.has_no_room = False  # Once is enough, should it come back no better.
    return sync_anew(heard, "there is room for its orders now")


def note_handed(session: Session, order: bytes) -> None:
    """This order came from there."""
    if session.peer.role is Role.OPERATOR:
        session.handed.add(order)


def tell_operators(
    sessions: Iterable[Session], message: Obeyed | Recorded | OrderRefused
) -> list[Effect]:
    """`message` to those of `sessions` who are operators."""
    return [Send(one.peer.id, message) for one in sessions if one.peer.role is Role.OPERATOR]


def tell_committed(
    sessions: Iterable[Session], orders: OrderSet, authority: Authority
) -> list[Effect]:
    """`Logged` notices for committed orders that these operators have not been told of."""
    effects: list[Effect] = []
    for session in sessions:
        done = [each for each in session.handed if orders.is_committed(each, authority)]
        session.handed.difference_update(done)
        effects += [Send(session.peer.id, Logged((each,))) for each in sorted(done)]
    return effects

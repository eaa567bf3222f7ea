"""What an operator who handed an order over hears of it: obeyed, recorded, committed; or refused.

* Committed means that every lease from now on has the order: of the keys that make leases, too few
  for one have yet to say that they hold it.
* Others than operators are told nothing: they hear of orders as orders.
"""

from collections.abc import Iterable

from firedoor.effects import Effect, Send
from firedoor.halt.orderset import OrderSet
from firedoor.identity import Role
from firedoor.node.session import Session
from firedoor.trust.keys import Authority
from firedoor.wire.messages import Logged, Obeyed, OrderRefused, Recorded


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

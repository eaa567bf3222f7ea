"""What the orders of one node stop here: the brake's halts, banned peers and fetches under way.

It is run after everything that can change what is in force: an order, a beacon, other keys, a
release that was not known before.
"""

from collections.abc import Mapping
from itertools import chain

from firedoor.effects import Drop, Effect, KeepActed
from firedoor.halt.brake import Gate
from firedoor.halt.orderset import OrderSet
from firedoor.identity import PeerId
from firedoor.node.gates import Gates
from firedoor.node.session import Session
from firedoor.node.sharing import Sharing
from firedoor.trust.keys import Authority
from firedoor.units import Instant


class Enforcement:
    """Turns the order set into closed gates and ended conversations. `sessions` is the node's."""

    __slots__ = ("_banned", "_gates", "_orders", "_sessions", "_sharing")

    def __init__(
        self, orders: OrderSet, gates: Gates, sharing: Sharing, sessions: Mapping[PeerId, Session]
    ) -> None:
        self._orders = orders
        self._gates = gates
        self._sharing = sharing
        self._sessions = sessions
        self._banned: frozenset[str] = frozenset()

    def apply(self, authority: Authority | None, now: Instant) -> list[Effect]:
        """Close and open what the orders in force close and open; nothing before there are keys."""
        if authority is None:
            return []
        acting = self._orders.let_resumes_act() if authority.is_fresh else ()
        self._gates.brake.set_halts(self._orders.in_force(), self._orders.passed())
        effects: list[Effect] = [*map(KeepActed, acting), *self._gates.decide()]
        self._banned = self._orders.banned()
        banned = filter(self.refuses, self._sessions)
        effects += [Drop(peer, "it is banned") for peer in banned]
        # What was halted may be served again, and whoever asked for it was told nothing then.
        effects += self._sharing.all_bitfields(self._sessions.values()) if acting else []
        return [*effects, *self._stop_fetches(now)]

    def refuses(self, peer: PeerId) -> bool:
        """Whether `peer` is banned; the suffix of an operator's conversation is ignored."""
        return peer.partition(".")[0] in self._banned

    def _stop_fetches(self, now: Instant) -> list[Effect]:
        swarm = self._sharing.swarm
        halted = [each for each in swarm.wanted() if not self._gates.is_open(Gate.FETCH, each)]
        return list(chain.from_iterable(swarm.drop(manifest, now) for manifest in halted))

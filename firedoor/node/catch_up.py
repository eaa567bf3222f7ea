"""Whether this node has caught up with its fleet's orders, and what it tells others once it has.

halt/sync.py has the rule; a mirror of an air-gapped site catches up by a lease of its own.
"""

from collections.abc import Mapping
from itertools import chain

from firedoor.effects import Effect, Send, Tell
from firedoor.halt.sync import Reconciliation
from firedoor.identity import PeerId
from firedoor.node.session import Session, sync_anew
from firedoor.node.settings import NodeSettings
from firedoor.node.sharing import Sharing
from firedoor.trust.keys import Authority
from firedoor.units import Instant
from firedoor.wire.messages import CaughtUp


class CatchUp:
    """The reconciliation of one node over its conversations. `sessions` is the node's."""

    __slots__ = ("_is_origin", "_sessions", "_sharing", "state")

    def __init__(
        self,
        settings: NodeSettings,
        state: Reconciliation,
        sharing: Sharing,
        sessions: Mapping[PeerId, Session],
    ) -> None:
        self._is_origin = settings.is_origin
        self.state = state
        self._sharing = sharing
        self._sessions = sessions

    def look_at(self, session: Session) -> list[Effect]:
        """Catch up by this conversation, if it is good for that."""
        is_brought_up = self.state.takes(session.sync, is_upstream=session.is_upstream)
        return self.finish(session.peer.id) if is_brought_up else []

    def finish(self, by: str) -> list[Effect]:
        """This node has caught up: tell those it talks with, and what it holds."""
        if self.state.is_done:
            return []
        self.state.is_done = True
        others = [one.peer.id for one in self._sessions.values() if one.sync.is_open]
        tell = Tell("reconciled", (("by", by),))
        news = [Send(peer, CaughtUp()) for peer in others]
        return [tell, *news, *self._sharing.all_bitfields(self._sessions.values())]

    def start_over(self, why: str) -> list[Effect]:
        """This node may lack orders that it had: catch up again, with everybody."""
        self.state.is_done = self._is_origin
        for session in self._sessions.values():
            session.sync.has_caught_up = False
        return sync_anew(self._sessions.values(), why)

    def follow_rotation(self, old: Authority, new: Authority) -> list[Effect]:
        """Keys were rotated: sync again with peers that may hold what the new keys have signed.

        They may have sent it before the metadata that makes it right, and it was refused then.
        """
        is_brake_key = old.has_other_brake_keys_than(new)
        meant = [one for one in self._sessions.values() if is_brake_key or one.sync.has_unknown]
        return sync_anew(meant, "keys were rotated")

    def wake(self, now: Instant) -> list[Effect]:
        """Do what is due: a mere peer may do from now on."""
        self.state.wake(now)
        return list(chain.from_iterable(map(self.look_at, self._sessions.values())))

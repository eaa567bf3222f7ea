"""What a node tells others of its pieces, and what it gives and asks for, gate by gate.

Pieces move only in the name of a release that both sides know and that is not halted here; the
swarm decides from whom. Source: halt/README.md, Scope; swarm/README.md.
"""

from collections.abc import Collection, Iterable, Mapping

from firedoor.effects import Effect, Send
from firedoor.errors import Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import INTEREST_MAX, INTERESTS_MAX
from firedoor.node.gates import Gates
from firedoor.node.session import Session
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.holdings import Holdings
from firedoor.swarm.scheduler import Swarm
from firedoor.units import Instant
from firedoor.wire.messages import Bitfield, Have, Interest


class Sharing:
    """The pieces of one node among its conversations."""

    __slots__ = ("_gates", "holdings", "swarm")

    def __init__(self, gates: Gates, swarm: Swarm) -> None:
        self._gates = gates
        self.holdings = Holdings()
        self.swarm = swarm

    def heard(
        self, session: Session, message: Interest | Bitfield | Have, now: Instant
    ) -> list[Effect]:
        """A peer says what it has, or asks what is here."""
        match message:
            case Interest(manifests):
                room = INTERESTS_MAX - len(session.interests)
                session.interests.update(dict.fromkeys(manifests[:room]))
                return self.bitfields(session, manifests)
            case _ if not session.sync.is_open:
                return []  # Sync before bytes.
            case Bitfield(manifest, bits):
                return self.swarm.bitfield(session.peer.id, manifest, bits, now)
            case Have(manifest, pieces):
                return self.swarm.have(session.peer.id, manifest, pieces, now)

    def want(
        self, pieces: PieceMap, have: Bits, sessions: Collection[Session], now: Instant
    ) -> list[Effect]:
        """Fetch a release, if the brake lets it move and a lease covers that."""
        if not self._gates.may_start(Gate.FETCH, pieces.manifest, now):
            return []
        self.holdings.hold(pieces, have)
        able = [one for one in sessions if one.sync.is_open]
        askable = [one.peer.id for one in able if one.peer.role is not Role.OPERATOR]
        ask = [Send(peer, Interest((pieces.manifest,))) for peer in askable]
        # Who asked before this node knew the release, after a restart for one, hears of it now.
        tell = [
            effect
            for session in sessions
            if pieces.manifest in session.interests
            for effect in self.bitfields(session, (pieces.manifest,))
        ]
        return [*ask, *tell, *self.swarm.want(pieces, have, now)]

    def interests(self, peer: PeerId) -> list[Effect]:
        """All that is wanted here, for a peer that has come."""
        wanted = self.swarm.wanted()
        parts = [wanted[at : at + INTEREST_MAX] for at in range(0, len(wanted), INTEREST_MAX)]
        return [Send(peer, Interest(part)) for part in parts]

    def fetched(
        self, manifest: str, pieces: tuple[int, ...], sessions: Iterable[Session]
    ) -> list[Effect]:
        """Verified pieces are stored here; tell whoever is interested."""
        self.holdings.add(manifest, pieces)
        if not self._gates.permits(Gate.SERVE, manifest):
            return []
        told = [session.peer.id for session in sessions if manifest in session.interests]
        return [Send(peer, Have(manifest, pieces)) for peer in told]

    def serve(
        self,
        peer: Peer,
        sessions: Mapping[PeerId, Session],
        manifest: str,
        start: int,
        end: int,
    ) -> tuple[bytes, ...]:
        """The digests of the pieces that `peer` asks for, if it may have them.

        Raises:
            Halted, Untrusted, Unavailable, Malformed: why not.
            KeyError: no such release is held here.
        """
        if not peer.is_current:
            raise Untrusted("certificate", wanted="one within its dates", got="an expired one")
        if not any(one.sync.is_open for one in _conversations(sessions, peer)):
            raise Unavailable("pieces", why="orders must be synced first on /v1/peer")
        digests = self.holdings.digests(manifest, start, end)
        self._gates.require(Gate.SERVE, manifest)
        return digests

    def bitfields(self, session: Session, manifests: Iterable[str]) -> list[Effect]:
        """What is held of these releases and may be said, for one peer."""
        held = [each for each in manifests if each in self.holdings]
        return [
            Send(session.peer.id, Bitfield(manifest, self.holdings.bitfield(manifest)))
            for manifest in held
            if self._gates.permits(Gate.SERVE, manifest)
        ]

    def all_bitfields(self, sessions: Iterable[Session]) -> list[Effect]:
        """The same for every peer and all that it asked to hear of."""
        return [each for one in sessions for each in self.bitfields(one, one.interests)]


def _conversations(sessions: Mapping[PeerId, Session], peer: Peer) -> list[Session]:
    """Those of one peer; a person may have several, none of them under the bare id."""
    if peer.role is Role.OPERATOR:
        return [one for each, one in sessions.items() if each.partition(".")[0] == peer.id]
    return [sessions[peer.id]] if peer.id in sessions else []

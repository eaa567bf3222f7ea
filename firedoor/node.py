"""The one place where the cores meet: orders, brake, sessions and swarm of one mirror or agent.

* A new order: close the brake, cut, forward, then record (halt.md, Paths).
* Sync before bytes: no piece moves on a conversation before both sides have delivered every order
  that the other lacked. Equality is not the condition; *nothing undelivered* is.
* After a start nothing is fetched, installed or activated until one mirror, or one peer where no
  mirror is configured or found, has been synced with.

It knows no sockets, files, clocks or dice of its own; runtime/host.py drives it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from firedoor.dice import Dice
from firedoor.effects import Cut, Effect, Keep, KeepBeacon, Send, Tell
from firedoor.errors import Halted, Malformed, Refused, Unavailable, Untrusted
from firedoor.halt.brake import Brake, Gate
from firedoor.halt.order import Halt
from firedoor.halt.orderset import Admission, OrderSet
from firedoor.halt.scope import Subject
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import (
    FRAME_BYTES_MAX,
    MIRROR_PATIENCE,
    ORDER_BYTES_MAX,
    REQUESTS_MAX,
    ROSTER_MAX,
)
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.scheduler import Swarm
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span, after
from firedoor.wire.messages import (
    Announce,
    Beacon,
    Bitfield,
    Have,
    Health,
    Hello,
    Interest,
    Message,
    OrderIds,
    Orders,
    OrdersDone,
    Recorded,
    Roster,
    RosterEntry,
)

# A roster that changes many times while a site boots is sent once per this span.
ROSTER_SPAN = Span(0.2)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this node is.

    `port`: where it listens; `has_mirrors`: some are configured or found; `places`: requests in
    flight at once.
    """

    me: PeerId
    role: Role
    site: str
    port: int
    is_origin: bool = False
    has_mirrors: bool = True
    places: int = REQUESTS_MAX


@dataclass(slots=True)
class Session:
    """One conversation. `is_upstream`: pieces and metadata come from there."""

    peer: Peer
    host: str
    is_upstream: bool
    sent_digest: bytes
    port: int = 0
    is_greeted: bool = False
    has_delivered: bool = False
    has_received: bool = False
    interests: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether nothing is undelivered in either direction."""
        return self.has_delivered and self.has_received


class Node:
    """The decisions of one peer. Every method returns what the host must do, in order."""

    __slots__ = (
        "_authority",
        "_beacon",
        "_dice",
        "_maps",
        "_may_reconcile_by_peer_at",
        "_roster_at",
        "_sessions",
        "_settings",
        "brake",
        "durable",
        "is_reconciled",
        "orders",
        "refusals",
        "subjects",
        "swarm",
    )

    def __init__(self, settings: NodeSettings, dice: Dice, now: Instant) -> None:
        self._settings = settings
        self._dice = dice
        self._authority: Authority | None = None
        self._sessions: dict[PeerId, Session] = {}
        self._beacon = b""
        self._maps: dict[str, tuple[PieceMap, Bits]] = {}
        self._roster_at: Instant | None = None
        self._may_reconcile_by_peer_at = after(now, MIRROR_PATIENCE)
        self.orders = OrderSet()
        self.brake = Brake()
        self.swarm = Swarm(settings.me, dice, settings.places)
        self.subjects: dict[str, Subject] = {}
        self.durable: set[bytes] = set()
        self.refusals: dict[str, int] = {}
        # The origin has nobody to catch up with but whoever comes, and each of those syncs first.
        self.is_reconciled = settings.is_origin

    # --- trust and state -----------------------------------------------------------------------

    def trust(self, authority: Authority, now: Instant) -> list[Effect]:
        """Believe these keys from now on. A resume may begin or cease to act by it."""
        self._authority = authority
        return self._apply(now)

    def restore(self, records: Iterable[bytes], beacon: bytes, now: Instant) -> list[Effect]:
        """Take back what an earlier run recorded. Needs `trust` first."""
        authority = self._keys()
        for record in records:
            try:
                _, order = self.orders.admit(record, authority)
            except Refused as error:
                # A key may have been rotated away since; the order then binds nobody.
                self._count(error)
                continue
            self.durable.add(order.id)
        if beacon:
            try:
                self._name(beacon, authority)
            except Refused as error:
                # Its key was turned; the origin's next beacon names all of it again.
                self._count(error)
        return self._apply(now)

    def learn(self, manifest: str, subject: Subject, now: Instant) -> list[Effect]:
        """A release exists; with `subject.files` when its manifest is held."""
        if self.subjects.get(manifest) == subject:
            return []
        self.subjects[manifest] = subject
        self.brake.learn(subject)
        return self._apply(now)

    def permits(self, gate: Gate, manifest: str) -> bool:
        """Whether this release may pass `gate` here and now. An unknown one may not."""
        subject = self.subjects.get(manifest)
        if subject is None or (gate is not Gate.SERVE and not self.is_reconciled):
            return False
        return self.brake.permits(gate, subject)

    def require(self, gate: Gate, manifest: str) -> None:
        """Nothing, if the release may pass `gate`.

        Raises:
            Halted: it may not.
        """
        if not self.permits(gate, manifest):
            subject = self.subjects.get(manifest)
            level = self.brake.level(subject) if subject is not None else int(gate)
            raise Halted(manifest[:12], level=level)

    # --- conversations -------------------------------------------------------------------------

    def connected(self, peer: Peer, *, host: str, is_upstream: bool, now: Instant) -> list[Effect]:
        """A standing connection to `peer` is up."""
        digest = self.orders.digest()
        gone = self._close(peer.id, now) if peer.id in self._sessions else []
        self._sessions[peer.id] = Session(peer, host, is_upstream, digest)
        return [*gone, Send(peer.id, Hello(digest, self._settings.port))]

    def disconnected(self, peer: PeerId, now: Instant) -> list[Effect]:
        """The standing connection to `peer` is gone."""
        return self._close(peer, now) if peer in self._sessions else []

    def receive(  # noqa: C901, PLR0911  # one case a message, flat on purpose
        self, message: Message, sender: PeerId, now: Instant
    ) -> list[Effect]:
        """A message came from `sender`, which must be connected.

        Raises:
            Refused: the message breaks a rule; the host drops the peer.
        """
        session = self._sessions[sender]
        match message:
            case Hello():
                return self._greet(session, message, now)
            case OrderIds(ids):
                missing = self.orders.records_but(ids)
                session.has_delivered = True
                more = self._opened(session, now)
                return [*_send_orders(sender, missing), Send(sender, OrdersDone()), *more]
            case Orders(records):
                return self._admit_all(records, sender, now)
            case OrdersDone():
                session.has_received = True
                return self._opened(session, now)
            case Beacon(record):
                return self._take_beacon(record, sender, now)
            case Interest(manifests):
                session.interests.update(manifests[:256])
                return [*self._bitfields(sender, manifests)]
            case Bitfield(manifest, bits):
                return self.swarm.bitfield(sender, manifest, bits, now) if session.is_open else []
            case Have(manifest, pieces):
                return self.swarm.have(sender, manifest, pieces, now) if session.is_open else []
            case Roster(entries):
                roster = tuple(PeerId(entry.id) for entry in entries)
                return self.swarm.roster(roster, now) if session.peer.role is Role.MIRROR else []
            case Recorded() | Announce() | Health():
                return []  # The host's own business.
            case _:
                assert_never(message)

    # --- orders --------------------------------------------------------------------------------

    def submit(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        """Admit one order and do what it asks for.

        Raises:
            Refused: forged, malformed, too large, or too many of its key.
        """
        admission, order = self.orders.admit(record, self._keys())
        if admission is Admission.KNOWN:
            is_durable = sender is not None and order.id in self.durable
            return [Send(sender, Recorded((order.id,)))] if is_durable and sender else []
        cut = self._apply(now)
        others = [peer for peer in self._sessions if peer != sender]
        forward = [Send(peer, Orders((record,))) for peer in others if self._is_greeted(peer)]
        name = "halt-admitted" if isinstance(order, Halt) else "resume-admitted"
        tell = Tell(name, (("order", order.id.hex()),))
        return [Cut(order.id), *cut, *forward, Keep(order.id, record), tell]

    def recorded(self, order_id: bytes, now: Instant) -> list[Effect]:
        """The host has made this order durable."""
        del now
        self.durable.add(order_id)
        return [Send(peer, Recorded((order_id,))) for peer in self._sessions]

    def beacon(self, record: bytes, now: Instant) -> list[Effect]:
        """The origin itself has signed a new beacon."""
        return self._take_beacon(record, None, now)

    # --- pieces --------------------------------------------------------------------------------

    def hold(self, pieces: PieceMap, have: Bits) -> None:
        """This node has some pieces of a release and may serve them."""
        self._maps[pieces.manifest] = (pieces, have)

    def want(self, pieces: PieceMap, have: Bits, now: Instant) -> list[Effect]:
        """Fetch a release, if the brake lets it move."""
        if not self.permits(Gate.FETCH, pieces.manifest):
            return []
        self.hold(pieces, have)
        ask = [
            Send(session.peer.id, Interest((pieces.manifest,)))
            for session in self._sessions.values()
            if session.is_open and session.peer.role is not Role.OPERATOR
        ]
        # Who asked before this node knew the release, after a restart for one, hears of it now.
        tell = [
            effect
            for session in self._sessions.values()
            if pieces.manifest in session.interests
            for effect in self._bitfields(session.peer.id, (pieces.manifest,))
        ]
        return [*ask, *tell, *self.swarm.want(pieces, have, now)]

    def fetched(
        self, number: int, manifest: str, pieces: tuple[int, ...], now: Instant
    ) -> list[Effect]:
        """Verified pieces are stored here; tell whoever is interested."""
        held = self._maps.get(manifest)
        if held is not None:
            for piece in pieces:
                held[1].set(piece)
        news: list[Effect] = []
        if self.permits(Gate.SERVE, manifest):
            news = [
                Send(session.peer.id, Have(manifest, pieces))
                for session in self._sessions.values()
                if manifest in session.interests
            ]
        return [*news, *self.swarm.fetched(number, pieces, now)]

    def failed(self, number: int, *, is_lie: bool, retry_after: Span, now: Instant) -> list[Effect]:
        """A fetch ended early. `is_lie`: the peer sent bytes that are not the piece."""
        return self.swarm.failed(number, now, is_lie=is_lie, retry_after=retry_after)

    def give_up(self, manifest: str, now: Instant) -> list[Effect]:
        """Fetch a release no longer: this machine cannot keep it. `want` begins anew."""
        return self.swarm.drop(manifest, now)

    def pieces_of(self, manifest: str) -> PieceMap:
        """The piece map of a release that is held or wanted here.

        Raises:
            KeyError: it is neither.
        """
        return self._maps[manifest][0]

    def progress(self, manifest: str) -> tuple[int, int]:
        """How many pieces of a release are held here, of how many; (0, 0) when unknown."""
        held = self._maps.get(manifest)
        return (held[1].count, len(held[0].digests)) if held else (0, 0)

    def serve(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests of the pieces that `peer` asks for, if it may have them.

        Raises:
            Halted, Untrusted, Unavailable, Malformed: why not.
            KeyError: no such release is held here.
        """
        if not peer.is_current:
            raise Untrusted("certificate", wanted="one within its dates", got="an expired one")
        session = self._sessions.get(peer.id)
        if session is None or not session.is_open:
            raise Unavailable("pieces", why="orders must be synced first on /v1/peer")
        pieces, have = self._maps[manifest]
        if not self.permits(Gate.SERVE, manifest):
            raise Halted(manifest[:12], level=self.brake.level(self.subjects[manifest]))
        asked = pieces.pieces_in(start, end)
        if not all(have.has(piece) for piece in asked):
            raise Unavailable("pieces", why="not all of that range is held here")
        return tuple(pieces.digests[piece] for piece in asked)

    # --- time ----------------------------------------------------------------------------------

    def wake(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        effects = self.swarm.wake(now)
        if not self.is_reconciled and now >= self._may_reconcile_by_peer_at:
            for session in self._sessions.values():
                effects += self._reconcile(session, now)
        if self._roster_at is not None and now >= self._roster_at:
            self._roster_at = None
            effects += self._rosters()
        return effects

    def next_wakeup(self) -> Instant | None:
        """When `wake` is due next."""
        times = [self.swarm.next_wakeup(), self._roster_at]
        if not self.is_reconciled:
            times.append(self._may_reconcile_by_peer_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The conversations of the moment."""
        return tuple(self._sessions.values())

    # --- inside --------------------------------------------------------------------------------

    def _keys(self) -> Authority:
        if self._authority is None:
            raise Unavailable("keys", why="no signed metadata has been read yet")
        return self._authority

    def _count(self, error: Refused) -> None:
        self.refusals[error.code] = self.refusals.get(error.code, 0) + 1

    def _is_greeted(self, peer: PeerId) -> bool:
        # Before its hello a peer's digest is not known; the sync that follows delivers the order.
        session = self._sessions[peer]
        return session.is_greeted or session.peer.role is Role.OPERATOR

    def _greet(self, session: Session, hello: Hello, now: Instant) -> list[Effect]:
        if session.is_greeted:
            raise Malformed("hello", wanted="one", got="a second")
        session.is_greeted = True
        session.port = hello.port
        sender = session.peer.id
        effects: list[Effect] = [Send(sender, Beacon(self._beacon))] if self._beacon else []
        if hello.orders == session.sent_digest:
            # What was admitted after our hello went out was not forwarded before theirs came.
            late = self.orders.digest() != session.sent_digest
            session.has_delivered = session.has_received = True
            if late:
                effects += _send_orders(sender, self.orders.records_but(()))
            return [*effects, *self._opened(session, now)]
        return [*effects, Send(sender, OrderIds(self.orders.ids()))]

    def _opened(self, session: Session, now: Instant) -> list[Effect]:
        if not session.is_open:
            return []
        effects: list[Effect] = [Tell("peer-synced", (("peer", session.peer.id),))]
        if session.peer.role is Role.OPERATOR:
            return effects
        if self._settings.role is Role.MIRROR and session.peer.role is Role.AGENT:
            self._roster_at = self._roster_at or after(now, ROSTER_SPAN)
        effects += self._reconcile(session, now)
        wanted = self.swarm.wanted()
        if wanted:
            effects.append(Send(session.peer.id, Interest(tuple(wanted[:256]))))
        # Whether its certificate is within its dates is for the giver of pieces to judge: a machine
        # whose own clock is wrong would find nobody current, and pieces prove themselves.
        if session.is_upstream or session.peer.role is Role.AGENT:
            effects += self.swarm.peer_joined(session.peer.id, session.is_upstream, now)
        return effects

    def _reconcile(self, session: Session, now: Instant) -> list[Effect]:
        if self.is_reconciled or not session.is_open or session.peer.role is Role.OPERATOR:
            return []
        by_peer = not self._settings.has_mirrors or now >= self._may_reconcile_by_peer_at
        if not (session.is_upstream or by_peer):
            return []
        self.is_reconciled = True
        return [Tell("reconciled", (("peer", session.peer.id),))]

    def _admit_all(self, records: Iterable[bytes], sender: PeerId, now: Instant) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            try:
                effects += self.submit(record, sender, now)
            except Refused as error:
                self._count(error)
                effects.append(Tell("order-refused", (("peer", sender), ("why", str(error)))))
        return effects

    def _take_beacon(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        try:
            fresh = self._name(record, self._keys())
        except Refused as error:
            self._count(error)
            return [Tell("beacon-refused", (("peer", sender or ""), ("why", str(error))))]
        if not fresh:
            return []
        self._beacon = record
        others = [peer for peer in self._sessions if peer != sender]
        forward = [Send(peer, Beacon(record)) for peer in others]
        return [*self._apply(now), *forward, KeepBeacon(record)]

    def _name(self, record: bytes, authority: Authority) -> frozenset[bytes]:
        fresh = self.orders.name(record, authority)
        self._beacon = self._beacon or record
        return fresh

    def _apply(self, now: Instant) -> list[Effect]:
        if self._authority is None:
            return []
        self.brake.set_halts(self.orders.in_force(may_resume=self._authority.is_fresh))
        effects: list[Effect] = []
        for manifest in self.swarm.wanted():
            subject = self.subjects.get(manifest)
            if subject is None or not self.brake.permits(Gate.FETCH, subject):
                effects += self.swarm.drop(manifest, now)
        return effects

    def _bitfields(self, peer: PeerId, manifests: Iterable[str]) -> list[Effect]:
        return [
            Send(peer, Bitfield(manifest, self._maps[manifest][1].to_bytes()))
            for manifest in manifests
            if manifest in self._maps and self.permits(Gate.SERVE, manifest)
        ]

    def _rosters(self) -> list[Effect]:
        agents = [
            session
            for session in self._sessions.values()
            if session.peer.role is Role.AGENT and session.is_open and session.port
        ]
        entries = tuple(
            RosterEntry(session.peer.id, session.host, session.port)
            for session in agents[:ROSTER_MAX]
        )
        return [Send(session.peer.id, Roster(entries)) for session in agents]

    def _close(self, peer: PeerId, now: Instant) -> list[Effect]:
        session = self._sessions.pop(peer)
        if session.peer.role is Role.AGENT and self._settings.role is Role.MIRROR:
            self._roster_at = self._roster_at or after(now, ROSTER_SPAN)
        return self.swarm.peer_left(peer, now)


def _send_orders(peer: PeerId, records: tuple[bytes, ...]) -> list[Effect]:
    # So many records of the largest size fit one frame.
    share = FRAME_BYTES_MAX // (ORDER_BYTES_MAX + 8) - 1
    parts = [records[at : at + share] for at in range(0, len(records), share)]
    return [Send(peer, Orders(part)) for part in parts]

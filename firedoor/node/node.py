"""The one place where the cores meet: orders, brake, sessions and swarm of one mirror or agent.

* A new order: close the brake, cut, forward, then record (halt.md, Paths).
* Sync before bytes (halt/sync.py): no piece moves on a conversation before its orders have been
  exchanged, nor after a start before this node has caught up.

It knows no sockets, files, clocks or dice of its own; runtime/host/host.py drives it.
"""

from collections.abc import Iterable, Mapping
from typing import assert_never

from firedoor.dice import Dice
from firedoor.effects import Cut, Drop, Effect, Keep, KeepActed, KeepForgotten, Send, Tell
from firedoor.errors import Refused, Unavailable
from firedoor.halt.brake import Gate
from firedoor.halt.orderset import Admission, OrderSet
from firedoor.halt.scope import Subject
from firedoor.halt.sync import OrderSync, Reconciliation
from firedoor.identity import Peer, PeerId, Role
from firedoor.node import order_progress
from firedoor.node.beacons import Naming
from firedoor.node.countersigning import is_short
from firedoor.node.forwarding import Spreading
from firedoor.node.gates import Gates
from firedoor.node.issuing import Issuing
from firedoor.node.leasing import Leasing
from firedoor.node.restored import Kept
from firedoor.node.rosters import Rosters, roster_after
from firedoor.node.session import Session, sync_anew, sync_for_room
from firedoor.node.settings import NodeSettings
from firedoor.node.sharing import Sharing
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.scheduler import Swarm
from firedoor.trust.keys import Authority
from firedoor.units import Instant
from firedoor.wire.messages import (
    Announce,
    Beacon,
    Beat,
    Bitfield,
    CaughtUp,
    Countersign,
    Have,
    Health,
    Hello,
    Interest,
    LeaseAsked,
    LeaseGiven,
    Logged,
    Message,
    Obeyed,
    OrderIds,
    OrderRefused,
    Orders,
    OrdersDone,
    Receipts,
    Recorded,
    Roster,
    RosterChange,
    Witness,
)
from firedoor.wire.stick import Answer


class Node:
    """The decisions of one peer. Every method returns what the host must do, in order."""

    __slots__ = (
        "_authority",
        "_banned",
        "_issuing",
        "_naming",
        "_reconciliation",
        "_rosters",
        "_sessions",
        "_settings",
        "_spreading",
        "durable",
        "forgotten",
        "gates",
        "leasing",
        "orders",
        "refusals",
        "sharing",
        "swarm",
    )

    def __init__(self, settings: NodeSettings, dice: Dice, now: Instant) -> None:
        self._settings = settings
        self._authority: Authority | None = None
        self._banned: frozenset[str] = frozenset()
        self._sessions: dict[PeerId, Session] = {}
        self._rosters = Rosters()
        self._spreading = Spreading(dice)
        # The origin has nobody to catch up with but whoever comes, and each of those syncs first.
        has_mirrors = settings.has_mirrors
        self._reconciliation = Reconciliation(
            settings.role, is_done=settings.is_origin, has_mirrors=has_mirrors, now=now
        )
        self.orders = OrderSet()
        self.leasing = Leasing(settings, self.orders, dice)
        self._naming = Naming(self.orders, self._spreading)
        self._issuing = Issuing(settings)
        self.gates = Gates(settings.role, settings.place, self._reconciliation, self.leasing)
        self.swarm = Swarm(settings.me, dice, settings.requests_max)
        self.sharing = Sharing(self.gates, self.swarm)
        self.durable: set[bytes] = set()
        self.forgotten: set[bytes] = set()
        self.refusals: dict[str, int] = {}

    # --- trust and state -----------------------------------------------------------------------

    def trust(self, authority: Authority, now: Instant) -> list[Effect]:
        """Believe these keys from now on. A resume may begin to act by it."""
        old, self._authority = self._authority, authority
        effects: list[Effect] = []
        if old is not None and old.has_other_keys_than(authority):
            effects += self._follow_turned_keys(old, authority)
        return [*effects, *self._vouch(), *self._compact(authority), *self._apply(now)]

    def _compact(self, authority: Authority) -> list[Effect]:
        gone = self.orders.compact(authority)
        self.forgotten |= gone
        return [KeepForgotten(order) for order in sorted(gone)]

    def _follow_turned_keys(self, old: Authority, new: Authority) -> list[Effect]:
        """Sync anew with whoever may hold what the new keys have signed.

        It may have come before the metadata that makes it right, and was refused then.
        """
        self.orders.judge(new)
        is_turned = old.has_other_brake_keys_than(new)
        heard = [one for one in self._sessions.values() if is_turned or one.sync.has_unknown]
        return sync_anew(heard, "keys were turned")

    def restore(self, kept: Kept, now: Instant) -> list[Effect]:
        """Take back what an earlier run recorded. Needs `trust` first."""
        authority = self._keys()
        if kept.beacon:
            try:
                self._naming.restore(kept.beacon, authority)
            except Refused as error:
                # Its key was turned; the origin's next beacon names all of it again.
                self._count(error)
        self.durable |= {self.orders.restore(record, authority).id for record in kept.orders}
        self.forgotten |= self.orders.forget_all(kept.forgotten)
        self.orders.restore_acted(kept.acted)
        self.gates.brake.restore(kept.decided, kept.known)
        self._issuing.restore(self.durable, kept.vouched)
        return [*self._compact(authority), *self._apply(now)]

    def was_copied(self) -> list[Effect]:
        """This machine is a copy, or was set back: it catches up anew, with everybody."""
        self.leasing.lease.void("this machine was copied or set back: its generation id is new")
        self._reconciliation.is_done = self._settings.is_origin
        for session in self._sessions.values():
            session.sync.has_caught_up = False
        return sync_anew(self._sessions.values(), "this machine was copied")

    def expect_mirror(self, now: Instant) -> None:
        """A mirror is near, says a hint; for a while no mere peer reconciles this node."""
        self._reconciliation.expect_mirror(now)

    @property
    def is_reconciled(self) -> bool:
        """Whether this node has caught up with its fleet's orders since its start."""
        return self._reconciliation.is_done

    def learn(self, manifest: str, subject: Subject, now: Instant) -> list[Effect]:
        """A release exists; with `subject.files` when its manifest is held."""
        return self.learn_all({manifest: subject}, now)

    def learn_all(self, subjects: Mapping[str, Subject], now: Instant) -> list[Effect]:
        """These releases exist, by manifest; what halts reach is decided over all of them."""
        return self._apply(now) if self.gates.learn_all(subjects) else []

    def permits(self, gate: Gate, manifest: str) -> bool:
        """Whether this release may pass `gate` here and now; as `Gates.permits`."""
        return self.gates.permits(gate, manifest)

    def refuses(self, peer: PeerId) -> bool:
        """Whether this machine is banned; a person's conversations are told apart by a suffix."""
        return peer.partition(".")[0] in self._banned

    # --- conversations -------------------------------------------------------------------------

    def connected(self, peer: Peer, *, host: str, is_upstream: bool, now: Instant) -> list[Effect]:
        """A standing connection to `peer` is up."""
        digest = self.orders.digest()
        gone = self._close(peer.id, now) if peer.id in self._sessions else []
        self._sessions[peer.id] = Session(peer, host, is_upstream, OrderSync(peer, digest))
        return [*gone, Send(peer.id, Hello(digest, self._settings.port))]

    def disconnected(self, peer: PeerId, now: Instant) -> list[Effect]:
        """The standing connection to `peer` is gone."""
        return self._close(peer, now) if peer in self._sessions else []

    def receive(  # noqa: C901, PLR0911, PLR0912  # one case a message, flat on purpose
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
                effects = session.sync.deliver(ids, self.orders)
                return [*effects, *self._opened(session, now)]
            case Orders(records):
                return self._admit_all(records, sender, now)
            case OrdersDone():
                session.sync.has_received = True
                return self._opened(session, now)
            case CaughtUp():
                session.sync.has_caught_up = True
                return self._reconcile(session)
            case Beacon(record):
                return self.take_beacon(record, sender, now)
            case LeaseAsked():
                sessions, signs = self._sessions.values(), self.is_second_origin
                return self.leasing.asked(session, message, sessions, now, signs=signs)
            case Witness(keyid):
                return self._issuing.countersigning.met(session, keyid, self._keys())
            case Countersign(record):
                return self._countersign(session, record, now)
            case LeaseGiven():
                return self._take_lease(message, sender, now)
            case Interest() | Bitfield() | Have():
                return self.sharing.heard(session, message, now)
            case Roster() | RosterChange():
                # A roster tells an endpoint of its neighbours, and by a mirror that gives to it.
                if not session.is_upstream or self._settings.role is Role.MIRROR:
                    return []
                session.roster = roster_after(session.roster, message)
                return self.swarm.roster(tuple(sorted(session.roster)), now)
            case Beat() | Receipts() | Recorded() | Obeyed() | Logged() | OrderRefused():
                return []  # The host's own business, as are these.
            case Announce() | Health():
                return []
            case _:
                assert_never(message)

    # --- orders --------------------------------------------------------------------------------

    def submit(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        """Admit one order and do what it asks for.

        Raises:
            Refused: forged, malformed, too large, or too many of its key.
        """
        admission, order = self.orders.admit(record, self._keys())
        given_by = [self._sessions[sender]] if sender is not None else []
        for session in given_by:
            order_progress.note_handed(session, order.id)
        if admission is Admission.SIGNED_ANEW:
            return [*self._forward(order.record, sender, now), Keep(order.id, order.record)]
        if admission is Admission.KNOWN:
            self._spreading.heard(record, self._sessions.get(sender or PeerId("")), now)
            done = Recorded((order.id,))
            said = order_progress.tell_operators(given_by, done) if order.id in self.durable else []
            return [*said, *order_progress.tell_logged(given_by, self.orders, self._keys())]
        cut = self._apply(now)
        forward = self._forward(order.record, sender, now)
        tell = Tell(f"{order.kind}-admitted", (("order", order.id.hex()),))
        said = order_progress.tell_operators(given_by, Obeyed((order.id,)))
        return [Cut(order.id), *cut, *forward, *said, Keep(order.id, order.record), tell]

    def _forward(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        told = [one for one in self._sessions.values() if one.sync.may_be_told]
        from_session = self._sessions.get(sender) if sender is not None else None
        return self._spreading.spread(record, Orders((record,)), told, from_session, now)

    def recorded(self, order_id: bytes) -> list[Effect]:
        """The host has made this order durable; who handed it over waits for that."""
        self.durable.add(order_id)
        self._issuing.recorded(self.orders.get(order_id), self._keys())
        told = order_progress.tell_operators(self._sessions.values(), Recorded((order_id,)))
        return [*told, *self._vouch()]

    def _vouch(self) -> list[Effect]:
        return self._issuing.vouch(self.orders, self.durable, self._keys())

    # --- pieces --------------------------------------------------------------------------------

    def want(self, pieces: PieceMap, have: Bits, now: Instant) -> list[Effect]:
        """Fetch a release, if the brake lets it move and a lease covers that."""
        return self.sharing.want(pieces, have, self._sessions.values(), now)

    def fetched(
        self, number: int, manifest: str, pieces: tuple[int, ...], now: Instant
    ) -> list[Effect]:
        """Verified pieces are stored here; tell whoever is interested."""
        news = self.sharing.fetched(manifest, pieces, self._sessions.values())
        return [*news, *self.swarm.fetched(number, pieces, now)]

    def forget_pieces(self, manifest: str, now: Instant) -> list[Effect]:
        """What was held of a release is not sure any more; `want` looks at the store anew."""
        self.sharing.holdings.forget(manifest)
        return self.swarm.drop(manifest, now)

    def serve(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests of the pieces that `peer` asks for; raises as `Sharing.serve`."""
        return self.sharing.serve(peer, self._sessions, manifest, start, end)

    # --- time ----------------------------------------------------------------------------------

    def wake(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        effects = [*self._spreading.wake(self._sessions, now), *self.swarm.wake(now)]
        self._reconciliation.wake(now)
        sessions = self._sessions.values()
        for session in sessions:
            effects += self._reconcile(session)
        effects += [*self._rosters.wake(sessions, now), *self._issuing.wake(now)]
        has_work = bool(self.swarm.wanted())
        signs = self.is_second_origin
        effects += self.leasing.wake(sessions, now, has_work=has_work, signs=signs)
        if has_work and not self.leasing.covers(Gate.FETCH, now):
            effects.append(Tell("lease-lapsed"))
            for manifest in self.swarm.wanted():
                effects += self.swarm.drop(manifest, now)
        return effects

    def next_wakeup(self, now: Instant) -> Instant | None:
        """When `wake` is due next."""
        times = (
            self.swarm.next_wakeup(),
            self._rosters.due,
            self._spreading.next_wakeup(),
            self._reconciliation.next_wakeup(),
            self._issuing.next_wakeup(now),
            self.leasing.next_wakeup(now, has_work=bool(self.swarm.wanted())),
        )
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

    def _greet(self, session: Session, hello: Hello, now: Instant) -> list[Effect]:
        effects = session.sync.greet(hello, self.orders)
        session.port = hello.port
        if self.orders.beacon:
            effects.insert(0, Send(session.peer.id, Beacon(self.orders.beacon)))
        return [*effects, *self._opened(session, now)]

    def _opened(self, session: Session, now: Instant) -> list[Effect]:
        peer = session.peer.id
        if not session.sync.is_open:
            return []
        self.leasing.opened(session)
        effects: list[Effect] = [Tell("peer-synced", (("peer", peer),))]
        if self._settings.beacon_key and session.is_upstream:
            effects.append(Send(peer, Witness(self._settings.beacon_key)))
        effects += [Send(peer, CaughtUp())] if self.is_reconciled else []
        if session.peer.role is Role.OPERATOR:
            return effects
        if self._settings.role is Role.MIRROR and session.peer.role is Role.AGENT:
            self._rosters.stir(self._sessions.values(), now)
        effects += self._reconcile(session)
        effects += self.sharing.interests(peer)
        # Whether its certificate is within its dates is for the giver of pieces to judge: a machine
        # whose own clock is wrong would find nobody current, and pieces prove themselves.
        if session.is_upstream or session.peer.role is Role.AGENT:
            effects += self.swarm.peer_joined(session.peer.id, session.is_upstream, now)
        return effects

    def _reconcile(self, session: Session) -> list[Effect]:
        is_brought_up = self._reconciliation.takes(session.sync, is_upstream=session.is_upstream)
        return self._caught_up(session.peer.id) if is_brought_up else []

    def _caught_up(self, by: str) -> list[Effect]:
        if self._reconciliation.is_done:
            return []
        self._reconciliation.is_done = True
        others = [one.peer.id for one in self._sessions.values() if one.sync.is_open]
        tell = Tell("reconciled", (("by", by),))
        news = [Send(peer, CaughtUp()) for peer in others]
        return [tell, *news, *self.sharing.all_bitfields(self._sessions.values())]

    def _admit_all(self, records: Iterable[bytes], sender: PeerId, now: Instant) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            try:
                effects += self.submit(record, sender, now)
            except Refused as error:
                self._count(error)
                session = self._sessions[sender]
                effects += order_progress.tell_operators([session], OrderRefused(str(error)[:400]))
                effects += session.sync.refuse(error)
                if session.sync.is_spent:
                    break  # The rest would cost a verification each, for nobody.
        return effects

    def take_beacon(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        """A beacon came from `sender`, or was just made here."""
        session = self._sessions[sender] if sender is not None else None
        sessions = self._sessions.values()
        try:
            if sender is None and is_short(record, self._keys()):
                return self._issuing.countersigning.ask(record, sessions)
            news = self._naming.take(record, session, sessions, self._keys(), now)
        except Refused as error:
            return self._refuse("beacon", sender, error)
        if session is not None:
            session.sync.has_untrusted_beacon = False
        told = [*news, *self._issuing.named(self.orders.named)]
        told += order_progress.tell_logged(sessions, self.orders, self._keys())
        acts = self._apply(now) if news else []
        again = sync_for_room(sessions) if news and self.orders.lacks_named() else []
        return [*acts, *told, *self._vouch(), *again]

    def ask_lease(self, nonce: bytes, now: Instant) -> list[Effect]:
        """The host has drawn `nonce`, as `DrawNonce` asked, after it read `now`."""
        self.leasing.ask(nonce, now)
        return self.wake(now)

    def answer(self, record: bytes, now: Instant) -> list[Effect]:
        """Where leases are signed: what `SignLease` asked for is signed, as far as it is here."""
        if is_short(record, self._keys()):
            return self._issuing.countersigning.ask(record, self._sessions.values())
        return self._take_lease(LeaseGiven(record, ()), None, now)

    def _countersign(self, session: Session, record: bytes, now: Instant) -> list[Effect]:
        whole = self._issuing.heard(session, record, self._keys())
        if whole is None:
            is_held = self.orders.expect(self._issuing.countersigning.wanted(self._keys()))
            return [*self._vouch(), *([] if is_held else sync_for_room(self._sessions.values()))]
        is_beacon, signed = whole[0] == "beacon", whole[1]
        return self.take_beacon(signed, None, now) if is_beacon else self.answer(signed, now)

    @property
    def is_second_origin(self) -> bool:
        """Whether a beacon key of this mirror, which is not the origin, counts by itself."""
        return self._issuing.is_second_origin(self._authority, is_reconciled=self.is_reconciled)

    def bring(self, answer: Answer, now: Instant) -> list[Effect]:
        """A stick has come home to this mirror; raises as `Leasing.brought`.

        A lease of its own proves that it holds all that it would have heard from above.
        """
        effects = self.leasing.brought(answer, self._keys(), self._sessions.values(), now)
        is_proven = self.leasing.lease.is_live(self.leasing.lease.terms.start, now)
        return [*effects, *(self._caught_up("a stick") if is_proven else ())]

    def _take_lease(self, message: LeaseGiven, sender: PeerId | None, now: Instant) -> list[Effect]:
        try:
            return self.leasing.given(message, sender, self._keys(), now)
        except Refused as error:
            # A hostile relay can withhold a lease; that is all it can do.
            return self._refuse("lease", sender, error)

    def _refuse(self, what: str, sender: PeerId | None, error: Refused) -> list[Effect]:
        """Say it once in a conversation, and end one that brings nothing else."""
        self._count(error)
        session = self._sessions.get(sender or PeerId(""))
        return session.sync.refuse_other(what, error) if session is not None else []

    def logged_ids(self) -> tuple[bytes, ...]:
        """The orders that beacons and leases of this node are over, sorted."""
        return self._issuing.logged_ids(self.orders, self.durable)

    def _apply(self, now: Instant) -> list[Effect]:
        if self._authority is None:
            return []
        acting = self.orders.let_resumes_act() if self._authority.is_fresh else ()
        self.gates.brake.set_halts(self.orders.in_force(), self.orders.passed())
        effects: list[Effect] = [*map(KeepActed, acting), *self.gates.decide()]
        self._banned = self.orders.banned()
        effects += [Drop(peer, "it is banned") for peer in self._sessions if self.refuses(peer)]
        # What was halted may be served again, and whoever asked for it was told nothing then.
        effects += self.sharing.all_bitfields(self._sessions.values()) if acting else []
        for manifest in self.swarm.wanted():
            subject = self.gates.subjects.get(manifest)
            if subject is None or not self.gates.brake.permits(Gate.FETCH, subject):
                effects += self.swarm.drop(manifest, now)
        return effects

    def _close(self, peer: PeerId, now: Instant) -> list[Effect]:
        session = self._sessions.pop(peer)
        self.leasing.closed(session)
        if session.peer.role is Role.AGENT and self._settings.role is Role.MIRROR:
            self._rosters.stir(self._sessions.values(), now)
        return self.swarm.peer_left(peer, now)

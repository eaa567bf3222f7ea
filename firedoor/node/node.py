"""The one place where the cores meet: orders, brake, sessions and swarm of one mirror or agent.

* A new order: close the brake, cut, forward, then record (order_book.py).
* Sync before bytes (halt/sync.py): no piece moves on a conversation before its orders have been
  exchanged, nor after a start before this node has caught up.

It knows no sockets, files, clocks or dice of its own. What a host must do after each call, in
order, stands in the package's own text (__init__.py); runtime/host/host.py is such a host.
"""

from collections.abc import Mapping
from typing import assert_never

from firedoor.dice import Dice
from firedoor.effects import Effect, Send, Tell
from firedoor.errors import Refused, Unavailable
from firedoor.halt.brake import Gate
from firedoor.halt.carried import CarriedLeases
from firedoor.halt.lease import Lease
from firedoor.halt.order import Halt
from firedoor.halt.orderset import OrderSet
from firedoor.halt.scope import Subject
from firedoor.halt.sync import OrderSync, Reconciliation
from firedoor.identity import Peer, PeerId, Role
from firedoor.node.beacon_records import BeaconRecords
from firedoor.node.beacons import Naming
from firedoor.node.catch_up import CatchUp
from firedoor.node.enforcement import Enforcement
from firedoor.node.forwarding import Spreading
from firedoor.node.gates import Gates
from firedoor.node.issuing import Issuing
from firedoor.node.leasing import Leasing
from firedoor.node.order_book import Kept, OrderBook
from firedoor.node.rosters import Rosters, roster_after
from firedoor.node.session import Session
from firedoor.node.settings import NodeSettings
from firedoor.node.sharing import Sharing
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.scheduler import Swarm
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span
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
        "_book",
        "_catch_up",
        "_enforcement",
        "_gates",
        "_issuing",
        "_leasing",
        "_naming",
        "_records",
        "_rosters",
        "_sessions",
        "_settings",
        "_sharing",
        "_spreading",
        "_swarm",
        "orders",
    )

    def __init__(self, settings: NodeSettings, dice: Dice, now: Instant) -> None:
        self._settings = settings
        self._authority: Authority | None = None
        self._sessions: dict[PeerId, Session] = {}
        self._rosters = Rosters()
        self._spreading = Spreading(dice)
        # The origin has nobody to catch up with but whoever comes, and each of those syncs first.
        has_mirrors = settings.has_mirrors
        reconciliation = Reconciliation(
            settings.role, is_done=settings.is_origin, has_mirrors=has_mirrors, now=now
        )
        self.orders = OrderSet()
        self._leasing = Leasing(settings, self.orders, dice)
        self._naming = Naming(self.orders, self._spreading)
        self._issuing = Issuing(settings)
        self._gates = Gates(settings.role, settings.place, reconciliation, self._leasing)
        self._swarm = Swarm(settings.me, dice, settings.requests_max)
        self._sharing = Sharing(self._gates, self._swarm)
        sessions = self._sessions
        self._catch_up = CatchUp(settings, reconciliation, self._sharing, sessions)
        self._enforcement = Enforcement(self.orders, self._gates, self._sharing, sessions)
        self._book = OrderBook(
            self.orders, self._enforcement, self._spreading, self._issuing, sessions
        )
        self._records = BeaconRecords(
            self.orders,
            sessions,
            naming=self._naming,
            issuing=self._issuing,
            leasing=self._leasing,
            book=self._book,
            enforcement=self._enforcement,
        )

    # --- questions ------------------------------------------------------------------------------
    # They change nothing, but that `may_start` begins to look for a lease that it misses.

    @property
    def is_reconciled(self) -> bool:
        """Whether this node has caught up with its fleet's orders since its start."""
        return self._catch_up.state.is_done

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The conversations of the moment."""
        return tuple(self._sessions.values())

    def refuses(self, peer: PeerId) -> bool:
        """Whether this machine is banned; an operator's conversations differ by a suffix."""
        return self._enforcement.refuses(peer)

    def permits(self, gate: Gate, manifest: str) -> bool:
        """Whether this release may pass `gate` here and now; as `Gates.permits`."""
        return self._gates.permits(gate, manifest)

    def require(self, gate: Gate, manifest: str) -> None:
        """Nothing, if the release may pass `gate`; raises Halted if not."""
        self._gates.require(gate, manifest)

    def may_start(self, gate: Gate, manifest: str, now: Instant) -> bool:
        """Whether this release may pass `gate` and a lease covers that; as `Gates.may_start`."""
        return self._gates.may_start(gate, manifest, now)

    def may_run(self, manifest: str) -> bool:
        """Whether no order takes this release off a machine; False for one that is not known."""
        return self._gates.is_open(Gate.ACTIVATE, manifest)

    def is_halted(self, gate: Gate, manifest: str) -> bool:
        """Whether an order, and nothing else, keeps this release from passing `gate`."""
        return manifest in self._gates.subjects and not self._gates.is_open(gate, manifest)

    @property
    def releases(self) -> Mapping[str, Subject]:
        """The releases that this node knows of, by manifest."""
        return self._gates.subjects

    def newest_of(self, product: str) -> int:
        """The highest counter of the product's releases that are known; 0 for none."""
        return self._gates.brake.newest(product)

    def level_of(self, manifest: str) -> int:
        """The highest level in force for this release; 0: none, or it is not known."""
        subject = self._gates.subjects.get(manifest)
        return self._gates.brake.level(subject) if subject is not None else 0

    def lowered_level_of(self, manifest: str) -> int:
        """The highest level that was signed for this release and does not hold here; 0: none."""
        subject = self._gates.subjects.get(manifest)
        return self._gates.brake.lowered(subject) if subject is not None else 0

    def is_covered(self, halt: Halt, subject: Subject) -> bool:
        """Whether this halt, in force or not, is about `subject` here."""
        return self._gates.brake.covers(halt, subject)

    def is_recorded(self, order_id: bytes) -> bool:
        """Whether this order is durable here."""
        return order_id in self._book.durable

    def is_known(self, order_id: bytes) -> bool:
        """Whether this order was admitted here, be it compacted since."""
        return order_id in self._book.forgotten or self.orders.get(order_id) is not None

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many signed records were refused here, by error code."""
        return self._book.refusals

    def is_whole(self, manifest: str) -> bool:
        """Whether every piece of this release is here."""
        return self._sharing.holdings.is_whole(manifest)

    def is_fetching(self, manifest: str) -> bool:
        """Whether this release is wanted and not whole."""
        return manifest in self._swarm.wanted()

    def progress_of(self, manifest: str) -> tuple[int, int]:
        """How many pieces of a release are here, of how many; (0, 0) when it is not known."""
        return self._sharing.holdings.progress(manifest)

    def pieces_of(self, manifest: str) -> PieceMap:
        """The piece map of a release; KeyError when it is not known."""
        return self._sharing.holdings.pieces_of(manifest)

    def pieces_of_none_but(self, manifest: str) -> frozenset[bytes]:
        """The pieces held for this release that no other release here has."""
        return self._sharing.holdings.of_none_but(manifest)

    @property
    def lease(self) -> Lease:
        """The lease of this node, to be looked at."""
        return self._leasing.lease

    def no_lease(self) -> Unavailable:
        """The error that says that a lease is missing, and why."""
        return self._leasing.missing()

    @property
    def carried(self) -> CarriedLeases:
        """What this mirror of an air-gapped site has to ask the origin, to be looked at."""
        return self._leasing.carried

    # --- trust and state -----------------------------------------------------------------------

    def trust(self, authority: Authority, now: Instant) -> list[Effect]:
        """Believe these keys from now on. A resume may begin to act by it."""
        old, self._authority = self._authority, authority
        effects: list[Effect] = []
        if old is not None and old.has_other_keys_than(authority):
            self.orders.judge(authority)
            effects += self._catch_up.follow_rotation(old, authority)
        effects += [*self._book.vouch(authority), *self._book.compact(authority)]
        return [*effects, *self._apply(now)]

    def restore(self, kept: Kept, now: Instant) -> list[Effect]:
        """Take back what an earlier run recorded. Needs `trust` first."""
        authority = self._keys()
        self._records.restore(kept.beacon, authority)
        self._book.restore(kept, authority)
        self._gates.brake.restore(kept.decided, kept.known)
        return [*self._book.compact(authority), *self._apply(now)]

    def was_copied(self) -> list[Effect]:
        """This machine is a copy, or was set back: it catches up anew, with everybody."""
        self._leasing.lease.void("this machine was copied or set back: its generation id is new")
        return self._catch_up.start_over("this machine was copied")

    def expect_mirror(self, now: Instant) -> None:
        """A mirror is near, says a hint; for a while no mere peer reconciles this node."""
        self._catch_up.state.expect_mirror(now)

    def learn(self, subjects: Mapping[str, Subject], now: Instant) -> list[Effect]:
        """These releases exist, by manifest; with `subject.files` where the manifest is held.

        What halts reach is decided over all of them.
        """
        return self._apply(now) if self._gates.learn_all(subjects) else []

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
                return self._book.admit_all(records, sender, self._keys(), now)
            case OrdersDone():
                session.sync.has_received = True
                return self._opened(session, now)
            case CaughtUp():
                session.sync.has_caught_up = True
                return self._catch_up.look_at(session)
            case Beacon(record):
                return self.take_beacon(record, sender, now)
            case LeaseAsked():
                sessions, signs = self._sessions.values(), self.is_second_origin
                return self._leasing.asked(session, message, sessions, now, signs=signs)
            case Witness(keyid):
                return self._issuing.countersigning.met(session, keyid, self._keys())
            case Countersign(record):
                return self._records.countersign(session, record, self._keys(), now)
            case LeaseGiven():
                return self._records.admit_lease(message, sender, self._keys(), now)
            case Interest() | Bitfield() | Have():
                return self._sharing.heard(session, message, now)
            case Roster() | RosterChange():
                # A roster tells an endpoint of its neighbours, and by a mirror that gives to it.
                if not session.is_upstream or self._settings.role is Role.MIRROR:
                    return []
                session.roster = roster_after(session.roster, message)
                return self._swarm.roster(tuple(sorted(session.roster)), now)
            case Beat() | Recorded() | Obeyed() | Logged() | OrderRefused():
                return []  # The program's own business, as are these.
            case Announce() | Health() | Receipts():
                return []
            case _:
                assert_never(message)

    # --- orders --------------------------------------------------------------------------------

    def submit(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        """Admit one order and do what it asks for.

        Raises:
            Refused: forged, malformed, too large, or too many of its key.
        """
        return self._book.admit(record, sender, self._keys(), now)

    def recorded(self, order_id: bytes) -> list[Effect]:
        """The host has made this order durable; who handed it over waits for that."""
        return self._book.record(order_id, self._keys())

    def count_refusal(self, error: Refused) -> None:
        """The host could not submit a record: it was refused."""
        self._book.count(error)

    # --- pieces --------------------------------------------------------------------------------

    def want(self, pieces: PieceMap, have: Bits, now: Instant) -> list[Effect]:
        """Fetch a release, if the brake lets it move and a lease covers that."""
        return self._sharing.want(pieces, have, self._sessions.values(), now)

    def fetched(
        self, number: int, manifest: str, pieces: tuple[int, ...], now: Instant
    ) -> list[Effect]:
        """Verified pieces are stored here; tell whoever is interested."""
        news = self._sharing.fetched(manifest, pieces, self._sessions.values())
        return [*news, *self._swarm.fetched(number, pieces, now)]

    def finished(self, number: int, now: Instant) -> list[Effect]:
        """This fetch has brought all that it was asked for."""
        return self._swarm.finished(number, now)

    def failed(self, number: int, now: Instant, *, is_lie: bool, retry_after: Span) -> list[Effect]:
        """This fetch has ended early; `is_lie`: the peer sent other bytes than it promised."""
        return self._swarm.failed(number, now, is_lie=is_lie, retry_after=retry_after)

    def hold(self, pieces: PieceMap, have: Bits) -> None:
        """These pieces of a release are here, though it is not wanted now."""
        self._sharing.holdings.hold(pieces, have)

    def forget_pieces(self, manifest: str, now: Instant) -> list[Effect]:
        """What was held of a release is not sure any more; `want` looks at the store anew."""
        self._sharing.holdings.forget(manifest)
        return self._swarm.drop(manifest, now)

    def serve(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests of the pieces that `peer` asks for; raises as `Sharing.serve`."""
        return self._sharing.serve(peer, self._sessions, manifest, start, end)

    # --- time ----------------------------------------------------------------------------------

    def wake(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        effects = [*self._spreading.wake(self._sessions, now), *self._swarm.wake(now)]
        sessions = self._sessions.values()
        effects += [*self._catch_up.wake(now), *self._rosters.wake(sessions, now)]
        effects += self._issuing.wake(now)
        has_work = bool(self._swarm.wanted())
        signs = self.is_second_origin
        effects += self._leasing.wake(sessions, now, has_work=has_work, signs=signs)
        if has_work and not self._leasing.covers(Gate.FETCH, now):
            effects.append(Tell("lease-lapsed"))
            for manifest in self._swarm.wanted():
                effects += self._swarm.drop(manifest, now)
        return effects

    def next_wakeup(self, now: Instant) -> Instant | None:
        """When `wake` is due next."""
        times = (
            self._swarm.next_wakeup(),
            self._rosters.due,
            self._spreading.next_wakeup(),
            self._catch_up.state.next_wakeup(),
            self._issuing.next_wakeup(now),
            self._leasing.next_wakeup(now, has_work=bool(self._swarm.wanted())),
        )
        return min((time for time in times if time is not None), default=None)

    # --- leases --------------------------------------------------------------------------------

    def seek_lease(self, now: Instant) -> None:
        """Something here will need a lease soon: keep a fresh one."""
        self._leasing.lease.seek(now)

    def void_lease(self, why: str) -> None:
        """This machine's clocks or its memory cannot be trusted to have run on: start nothing."""
        self._leasing.lease.void(why)

    # --- inside --------------------------------------------------------------------------------

    def _keys(self) -> Authority:
        if self._authority is None:
            raise Unavailable("keys", why="no signed metadata has been read yet")
        return self._authority

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
        self._leasing.opened(session)
        effects: list[Effect] = [Tell("peer-synced", (("peer", peer),))]
        if self._settings.beacon_key and session.is_upstream:
            effects.append(Send(peer, Witness(self._settings.beacon_key)))
        effects += [Send(peer, CaughtUp())] if self.is_reconciled else []
        if session.peer.role is Role.OPERATOR:
            return effects
        if self._settings.role is Role.MIRROR and session.peer.role is Role.AGENT:
            self._rosters.schedule(self._sessions.values(), now)
        effects += self._catch_up.look_at(session)
        effects += self._sharing.interests(peer)
        # Whether its certificate is within its dates is for the giver of pieces to judge: a machine
        # whose own clock is wrong would find nobody current, and pieces prove themselves.
        if session.is_upstream or session.peer.role is Role.AGENT:
            effects += self._swarm.peer_joined(session.peer.id, session.is_upstream, now)
        return effects

    def take_beacon(self, record: bytes, sender: PeerId | None, now: Instant) -> list[Effect]:
        """A beacon came from `sender`, or was just made here."""
        return self._records.admit_beacon(record, sender, self._keys(), now)

    def ask_lease(self, nonce: bytes, now: Instant) -> list[Effect]:
        """The host has drawn `nonce`, as `DrawNonce` asked, after it read `now`."""
        self._leasing.ask(nonce, now)
        return self.wake(now)

    def answer(self, record: bytes, now: Instant) -> list[Effect]:
        """Where leases are signed: what `SignLease` asked for is signed, as far as it is here."""
        return self._records.issue_lease(record, self._keys(), now)

    @property
    def is_second_origin(self) -> bool:
        """Whether a beacon key of this mirror, which is not the origin, counts by itself."""
        return self._issuing.is_second_origin(self._authority, is_reconciled=self.is_reconciled)

    def bring(self, answer: Answer, now: Instant) -> list[Effect]:
        """A stick has come home to this mirror; raises as `Leasing.brought`.

        A lease of its own proves that it holds all that it would have heard from above.
        """
        effects = self._leasing.brought(answer, self._keys(), self._sessions.values(), now)
        is_proven = self._leasing.lease.is_live(self._leasing.lease.terms.start, now)
        return [*effects, *(self._catch_up.finish("a stick") if is_proven else ())]

    def committed_ids(self) -> tuple[bytes, ...]:
        """The orders that beacons and leases of this node are over, sorted."""
        return self._issuing.committed_ids(self.orders, self._book.durable)

    def _apply(self, now: Instant) -> list[Effect]:
        return self._enforcement.apply(self._authority, now)

    def _close(self, peer: PeerId, now: Instant) -> list[Effect]:
        session = self._sessions.pop(peer)
        self._leasing.closed(session)
        if session.peer.role is Role.AGENT and self._settings.role is Role.MIRROR:
            self._rosters.schedule(self._sessions.values(), now)
        return self._swarm.peer_left(peer, now)

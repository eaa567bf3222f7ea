"""Drives one `Node`: carries out its effects over real connections, files and timers.

Both daemons stand on this. It decides nothing about orders or pieces; what differs between mirror
and agent comes in by `Program` (contract.py). Order of work on a halt: the brake is closed and
transfers are cut before this file awaits anything; what is forwarded leaves; the disk comes after,
and what this program itself has to undo comes last, for nothing that is halted can move by then.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

from firedoor.dice import Dice
from firedoor.effects import (
    AddSignature,
    Cancel,
    Complete,
    Cut,
    DrawNonce,
    Drop,
    Effect,
    Fetch,
    Keep,
    KeepActed,
    KeepBeacon,
    KeepDecision,
    KeepForgotten,
    KeepKnown,
    KeepVouched,
    Send,
    SignLease,
    Tell,
)
from firedoor.errors import FiredoorError, NoRoom
from firedoor.halt.brake import Gate
from firedoor.halt.scope import Subject
from firedoor.identity import PeerId
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.pieces.inventory import Bits, piece_map
from firedoor.runtime.clocks import Clock
from firedoor.runtime.host.connections import BULK, Connections
from firedoor.runtime.host.contract import IdleProgram, Program, Signer
from firedoor.runtime.host.fetching import Fetching
from firedoor.runtime.host.generation import GenerationWatch
from firedoor.runtime.host.metadata_source import Getter
from firedoor.runtime.host.multicast import Multicast
from firedoor.runtime.host.sources import Sources
from firedoor.runtime.logs import log, log_facts
from firedoor.runtime.metadata.catalogue import Catalogue, Get
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.network.transfers import Transfers
from firedoor.runtime.storage.contract import PieceStorage
from firedoor.runtime.storage.order_log import (
    ACTED,
    BEACON,
    DECIDED,
    FORGOTTEN,
    KNOWN,
    ORDER,
    VOUCHED,
    Entry,
    OrderLog,
)
from firedoor.runtime.storage.recorder import Recorder
from firedoor.units import Instant, Span
from firedoor.wire.messages import (
    Countersign,
    Recorded,
    encode_message,
    is_known_to,
)

# A host with nothing to wait for still looks up now and then, so that a lost timer heals.
IDLE_SPAN = Span(1.0)

# Metadata's dates are hours away when it comes; a minute more is nothing.
DATES_S = 60.0

# Wall clock and boot-time clock may differ by so much more than when the nonce was drawn: beyond
# it, one of them has jumped, or the machine stood still (halt/README.md, Gates).
CLOCKS_APART_S = 5.0


@dataclass(slots=True)
class OrderTimes:
    """When this node did what, on its own clock; for status and the demo."""

    closed_at: Instant
    recorded_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host acts with. `interfaces`: of the multicast, as for mDNS.

    `signer` gives the beacon key of this mirror as it is now, None where it has none: the origin's
    key is replaced while it runs.
    """

    clock: Clock
    client: PeerClient
    catalogue: Catalogue
    store: PieceStorage
    order_log: OrderLog
    interfaces: tuple[str, ...] = ()
    signer: Callable[[], Signer | None] = lambda: None


class Host:
    """One node, its connections and its folders. It implements `Driver` for its parts."""

    def __init__(self, settings: NodeSettings, parts: HostParts) -> None:
        clock = parts.clock
        self.settings = settings
        self.clock = clock
        self.client = parts.client
        self.catalogue = parts.catalogue
        self.store = parts.store
        self.log = parts.order_log
        self.node = Node(settings, Dice(clock.seed()), clock.now())
        self.trusted = asyncio.Event()
        self.program: Program = IdleProgram()
        self.started_at = clock.now()
        self.order_times: dict[str, OrderTimes] = {}
        self.sources = Sources()
        self.transfers = Transfers()
        self.connections = Connections(self, parts.client)
        self.fetching = Fetching(self, parts.client, self.connections, parts.store)
        self.multicast = Multicast(self, parts.interfaces, Dice(clock.seed()))
        self._signer = parts.signer
        self._recorder = Recorder(parts.order_log, self.start)
        self._group = asyncio.TaskGroup()
        self._notified = asyncio.Event()
        self._encoded: tuple[object, dict[int, bytes]] = (None, {})
        self._is_cut = self._is_changed = False
        self._divergence = clock.divergence()

    # --- life ----------------------------------------------------------------------------------

    async def run(self, program: Program, *workers: Coroutine[Any, Any, None]) -> None:
        """Serve until cancelled. `workers` run beside the node's timer."""
        self.program = program
        watch = GenerationWatch(
            lambda: self.apply(self.node.was_copied()),
            on_lost=lambda: self.node.void_lease("the kernel's events came too fast"),
        )
        async with self._group:
            self._group.create_task(watch.keep())
            try:
                self.catalogue.load()
                self.believe()
            except BaseException:
                for worker in workers:
                    worker.close()
                raise
            self._group.create_task(self._keep_time())
            self._group.create_task(self._keep_dates())
            self._group.create_task(self.connections.keep_beating())
            for worker in workers:
                self._group.create_task(worker)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` under this host's care; its own errors end it alone, in the log."""
        return self._group.create_task(self._guarded(work))

    def believe(self) -> None:
        """Take over what the catalogue now trusts: keys first, then the list of releases."""
        authority = self.catalogue.authority
        if authority is None:
            return
        now = self.clock.now()
        self.apply(self.node.trust(authority, now))
        if not self.trusted.is_set():
            self.apply(self.node.restore(self.log.kept(), now))
            self.trusted.set()
        # Past its dates metadata starts nothing, but what it names can still be halted.
        listed = (*self.catalogue.releases, *self.catalogue.dateless)
        known = self.node.releases
        fresh = {each.manifest: subject_of(each) for each in listed if each.manifest not in known}
        self.apply(self.node.learn(fresh, now))

    async def learn_held(self, manifest: str) -> None:
        """A release that is on this machine can be halted by whatever is in it.

        Raises:
            Refused: the manifest that is held is damaged.
        """
        held = await asyncio.to_thread(self.catalogue.held_manifest, manifest)
        if held is not None:
            digests = frozenset(file.digest for file in held.files)
            entry = self.catalogue.entry(manifest)
            subject = Subject(
                held.product,
                held.version,
                held.content,
                digests,
                counter=held.counter,
                publisher=entry.publisher if entry is not None else "",
            )
            self.apply(self.node.learn({manifest: subject}, self.clock.now()))

    # --- effects -------------------------------------------------------------------------------

    def apply(self, effects: list[Effect]) -> None:
        """Carry out `effects` in order, and what is told last: the disk before lines for people.

        Nothing here waits; the disk's turn and what comes after it follow this turn of the loop.
        """
        entries: list[Entry] = []
        for effect in effects:
            self._do(effect, entries)
        self._notified.set()
        done, follow = partial(self._recorded, effects), partial(self._follow, effects)
        is_cut, self._is_cut = self._is_cut, False
        is_changed, self._is_changed = self._is_changed, False
        if entries or any(isinstance(effect, AddSignature) for effect in effects):
            # A signature queues behind what may still wait for the disk, even with nothing to keep.
            self._recorder.keep(entries, done)
            asyncio.get_running_loop().call_soon(follow, is_cut, is_changed)
        else:
            done()
            follow(is_cut, is_changed)

    def _follow(self, effects: list[Effect], is_cut: bool, is_changed: bool) -> None:  # noqa: FBT001  # call_soon takes no names
        """What comes after the disk: lines for people, and the program's own part."""
        for effect in effects:
            if isinstance(effect, Tell):
                is_changed |= self._tell(effect)
        if is_cut:
            self.program.on_cut()
        if is_changed:
            self.program.on_changed()

    def _do(self, effect: Effect, entries: list[Entry]) -> None:  # noqa: C901, PLR0912  # one case an effect, flat
        match effect:
            case Send(peer, message):
                self.send(peer, message)
            case Keep(_, record):
                entries.append((ORDER, record))
            case KeepBeacon(record):
                entries.append((BEACON, record))
            case KeepActed(order):
                entries.append((ACTED, order))
                self._is_changed = True
            case KeepForgotten(order):
                entries.append((FORGOTTEN, order))
            case KeepDecision(record):
                entries.append((DECIDED, record))
            case KeepKnown(record):
                entries.append((KNOWN, record))
            case DrawNonce():
                lease = self.node.lease
                # Where they are carried older nonces may still be answered: they count from then.
                if not (lease.terms.is_carried and lease.is_asking):
                    self._divergence = self.clock.divergence()
                now = self.clock.now()
                self.apply(self.node.ask_lease(self.clock.nonce(), now))
            case SignLease(nonces):
                self.apply(self.node.answer(self._sign_lease(nonces), self.clock.now()))
            case KeepVouched(orders):
                entries.append((VOUCHED, b"".join(orders)))
            case Cut(order):
                self.order_times.setdefault(order.hex(), OrderTimes(self.clock.now()))
                self.multicast.spread(order)
                self.transfers.cut(lambda manifest: not self.node.permits(Gate.SERVE, manifest))
                self._is_cut = True
            case Fetch():
                self.fetching.start(effect)
            case Cancel(number):
                self.fetching.cancel(number)
            case Drop(peer, why):
                self.drop(peer, why)
            case Complete(manifest):
                self.start(self.program.on_complete(manifest))
            case Tell() | AddSignature():
                pass
            case _:
                assert_never(effect)

    def _tell(self, what: Tell) -> bool:
        """Say what has happened; whether the program's part may change by it."""
        log_facts(what.event, dict(what.facts))
        if what.event == "peer-synced":
            self.program.on_synced(PeerId(str(dict(what.facts)["peer"])))
        return what.event in {"reconciled", "leased", "lease-lapsed", "order-logged"}

    def send(self, peer: PeerId, message: object) -> bool:
        """Queue one message for `peer`; whether it was.

        A peer too slow to take it is dropped and comes back.
        """
        connection = self.connections.open.get(peer)
        if connection is None or connection.socket.is_closing:
            return False
        speaks = connection.socket.speaks
        if not is_known_to(message, speaks):
            return False
        if message is not self._encoded[0]:
            self._encoded = (message, {})
        # A roster or an order goes to many; it is put into bytes once for each version spoken.
        frames = self._encoded[1]
        if speaks not in frames:
            frames[speaks] = encode_message(message, speaks)
        is_bulk = isinstance(message, BULK)
        is_queued = connection.socket.send(frames[speaks], is_bulk=is_bulk)
        if not is_queued and not is_bulk:
            log("peer-too-slow", peer=peer)
        return is_queued

    def is_idle(self, peer: PeerId) -> bool:
        """Whether no bulk waits for `peer`, so that the newest may be sent; no one: not."""
        connection = self.connections.open.get(peer)
        return connection is not None and connection.socket.is_idle

    def _recorded(self, effects: list[Effect]) -> None:
        """What these effects had to keep is on the disk: do what waited for that."""
        now = self.clock.now()
        for effect in effects:
            match effect:
                case Keep(order, _):
                    self.order_times.setdefault(order.hex(), OrderTimes(now)).recorded_at = now
                    self.apply(self.node.recorded(order))
                    self.program.on_message(Recorded((order,)), self.settings.me)
                case AddSignature(peer, record):
                    self.send(peer, Countersign(self._beacon_key().vouch(record)))
                case _:
                    pass

    def _sign_lease(self, nonces: bytes) -> bytes:
        authority = self.catalogue.authority
        assert authority is not None
        return self._beacon_key().lease(self.node.committed_ids(), nonces, authority)

    def _beacon_key(self) -> Signer:
        """Asked for only where the node says that this mirror has one."""
        signer = self._signer()
        assert signer is not None
        return signer

    def drop(self, peer: PeerId, why: str) -> None:
        """End the conversation with a peer; it may come back, and then syncs anew."""
        connection = self.connections.open.get(peer)
        log("peer-dropped", level="warning", peer=peer, why=why)
        if connection is not None:
            connection.socket.close()

    # --- pieces --------------------------------------------------------------------------------

    async def acquire(self, entry: ReleaseEntry, get: Get) -> None:
        """Fetch a release: its manifest through `get`, its pieces from whoever has them.

        Where there is no room for it, `fetching.no_room` says so and nothing is fetched.

        Raises:
            Unavailable, Refused: the manifest cannot be had.
        """
        self.fetching.no_room.pop(entry.manifest, None)
        manifest = await self.catalogue.manifest(entry, get)
        pieces = piece_map(entry.manifest, manifest)
        have = Bits(len(pieces.digests))
        for index, digest in enumerate(pieces.digests):
            if await asyncio.to_thread(self.store.get, digest) is not None:
                have.set(index)
        now = self.clock.now()
        self.apply(self.node.learn({entry.manifest: subject_of(entry, manifest.files)}, now))
        try:
            self.store.make_sure_of_room(sum(pieces.sizes[at] for at in have.missing()))
        except NoRoom as error:
            # Held for a moment: a half that an earlier run left is let go of as well.
            self.node.hold(pieces, have)
            self.fetching.give_up(entry.manifest, error)
            return
        self.apply(self.node.want(pieces, have, now))

    def getter(self, source: PeerId | None) -> Getter:
        """Fetches small files from `source`, or from any other mirror, or peers where none is."""
        return Getter(self, self.client, self.connections, self.sources, first=source)

    # --- time ----------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            now = self.clock.now()
            due = self.node.next_wakeup(now)
            pause = IDLE_SPAN if due is None else max(0.0, due - now)
            self._notified.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, IDLE_SPAN)):
                    await self._notified.wait()
                continue
            self._look_at_clocks()
            self.apply(self.node.wake(self.clock.now()))

    def may_start(self, gate: Gate, manifest: str) -> bool:
        """Whether this release may pass `gate` now; a lease that is wanting for it is sought."""
        self._look_at_clocks()
        may = self.node.may_start(gate, manifest, self.clock.now())
        if not may:
            self._notified.set()
        return may

    def _look_at_clocks(self) -> None:
        """Void the lease where a clock has jumped: the machine may have stood still unseen."""
        divergence = self.clock.divergence()
        if abs(divergence - self._divergence) > CLOCKS_APART_S:
            log("clocks-diverged", level="warning", by=round(divergence - self._divergence, 1))
            self.node.void_lease("the wall clock and the boot-time clock have diverged")
            self._divergence = divergence

    async def _keep_dates(self) -> None:
        while True:
            await asyncio.sleep(DATES_S)
            await self.catalogue.look_at_dates()
            self.believe()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (FiredoorError, OSError) as error:
            log("work-failed", level="warning", why=f"{type(error).__name__}: {error}")
        # The outermost loop of one piece of work for one peer: what nobody foresaw there must not
        # end the program, its brake and all other peers' work.
        except Exception as error:  # noqa: BLE001  # as said above
            log("work-broke", level="error", why=repr(error)[:300], do="report this as a defect")


def subject_of(entry: ReleaseEntry, files: tuple[Any, ...] = ()) -> Subject:
    """The facts of a release that a scope may name."""
    digests = frozenset(file.digest for file in files)
    return Subject(
        entry.product,
        entry.version,
        entry.content,
        digests,
        counter=entry.counter,
        publisher=entry.publisher,
    )

"""Drives one `Node`: carries out its effects over real connections, files and timers.

Both daemons stand on this. It decides nothing about orders or pieces; what differs between mirror
and agent comes in by `Program`. Order of work on a halt: the brake is closed and transfers are cut
before this file awaits anything; the disk comes after.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

from firedoor.dice import Dice
from firedoor.effects import (
    Cancel,
    Complete,
    Cut,
    Drop,
    Effect,
    Fetch,
    Keep,
    KeepBeacon,
    Send,
    Tell,
)
from firedoor.errors import FiredoorError, Halted, NoRoom, Refused, Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.halt.scope import Subject
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import GATE_BYTES, METADATA_BYTES_MAX, RETRY_SPAN
from firedoor.node import Node, NodeSettings
from firedoor.pieces.inventory import Bits, piece_map
from firedoor.runtime.catalogue import Catalogue, Get
from firedoor.runtime.clocks import Clock
from firedoor.runtime.logs import log, log_facts
from firedoor.runtime.order_log import BEACON, ORDER, OrderLog
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.peer_server import Conversation
from firedoor.runtime.piece_store import PieceStore
from firedoor.runtime.transfers import Transfers
from firedoor.runtime.trust_client import ReleaseEntry
from firedoor.units import Instant, Span
from firedoor.wire.messages import (
    Announce,
    Health,
    Message,
    Recorded,
    Roster,
    decode_message,
    encode_message,
)

# A host with nothing to wait for still looks up now and then, so that a lost timer heals.
IDLE_SPAN = Span(1.0)

# A full disk is looked at again this often while an order waits to be recorded.
RECORD_AGAIN_S = 1.0


class Program(Protocol):
    """What a daemon adds to the host."""

    def on_message(self, message: Message, sender: PeerId) -> None:
        """An announcement, a health report or a recorded notice came."""

    def on_synced(self, peer: PeerId) -> None:
        """Nothing is undelivered between this node and `peer`."""

    def on_cut(self) -> None:
        """The brake has changed."""

    async def on_complete(self, manifest: str) -> None:
        """Every piece of a release is here."""

    def on_no_room(self, manifest: str) -> None:
        """The fetch of a release was given up; `Host.no_room` says why."""


@dataclass(slots=True)
class Line:
    """One standing connection. `dialler`: who opened it."""

    peer: Peer
    socket: Conversation
    dialler: PeerId
    host: str
    port: int


@dataclass(slots=True)
class OrderTimes:
    """When this node did what, on its own clock; for status and the demo."""

    closed_at: Instant
    recorded_at: Instant | None = None


@dataclass(slots=True)
class Counters:
    """Bytes that moved, and what still arrived of releases after their brake had closed."""

    received: dict[str, int]
    sent: int = 0
    covered_bytes: int = 0
    covered_last_at: float = 0.0


class Host:
    """One node, its connections and its folders."""

    def __init__(
        self,
        settings: NodeSettings,
        state: Path,
        *,
        catalogue: Catalogue,
        client: PeerClient,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.client = client
        self.catalogue = catalogue
        self.node = Node(settings, Dice(clock.seed()), clock.now())
        self.store = PieceStore(state / "pieces")
        self.log = OrderLog(state / "orders.log")
        self.transfers = Transfers()
        self.counters = Counters({"mirror": 0, "peer": 0, "upstream": 0})
        self.order_times: dict[str, OrderTimes] = {}
        self.no_room: dict[str, str] = {}
        self.lines: dict[PeerId, Line] = {}
        self.program: Program
        self._banned: set[PeerId] = set()
        self._fetches: dict[int, asyncio.Task[None]] = {}
        self._stirred = asyncio.Event()
        self._recording = asyncio.Lock()
        self._group: asyncio.TaskGroup
        self.trusted = asyncio.Event()

    # --- life ----------------------------------------------------------------------------------

    async def run(self, program: Program, *workers: Coroutine[Any, Any, None]) -> None:
        """Serve until cancelled. `workers` run beside the node's timer."""
        self.program = program
        async with asyncio.TaskGroup() as self._group:
            self.catalogue.load()
            self.believe()
            self._group.create_task(self._keep_time())
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
            self.apply(self.node.restore(self.log.orders, self.log.beacon, now))
            self.trusted.set()
        for entry in self.catalogue.releases:
            if entry.manifest not in self.node.subjects:
                self.apply(self.node.learn(entry.manifest, subject_of(entry), now))

    # --- effects -------------------------------------------------------------------------------

    def apply(self, effects: list[Effect]) -> None:
        """Carry out `effects` in order; nothing here waits."""
        for effect in effects:
            self._do(effect)
        self._stirred.set()

    def _do(self, effect: Effect) -> None:  # noqa: C901  # one case an effect, flat on purpose
        match effect:
            case Send(peer, message):
                self.send(peer, message)
            case Keep(order, record):
                self.start(self._record(order, record))
            case KeepBeacon(record):
                self.start(self._append(BEACON, record))
                # A resume may act from now on.
                self.program.on_cut()
            case Cut(order):
                self.order_times.setdefault(order.hex(), OrderTimes(self.clock.now()))
                self.transfers.cut(lambda manifest: not self.node.permits(Gate.SERVE, manifest))
                self.program.on_cut()
            case Fetch():
                self._fetches[effect.number] = self.start(self._fetch(effect))
            case Cancel(number):
                task = self._fetches.pop(number, None)
                if task is not None:
                    task.cancel()
            case Drop(peer, why, is_banned):
                self._drop(peer, why, is_banned=is_banned)
            case Complete(manifest):
                self.start(self.program.on_complete(manifest))
            case Tell(event, facts):
                log_facts(event, dict(facts))
                if event == "peer-synced":
                    self.program.on_synced(PeerId(str(dict(facts)["peer"])))
            case _:
                assert_never(effect)

    def send(self, peer: PeerId, message: object) -> None:
        """Queue one message for `peer`; a peer too slow to take it is dropped and comes back."""
        line = self.lines.get(peer)
        if line is not None and not line.socket.send(encode_message(message)):
            log("peer-too-slow", peer=peer)

    async def _record(self, order: bytes, record: bytes) -> None:
        await self._append(ORDER, record)
        times = self.order_times.setdefault(order.hex(), OrderTimes(self.clock.now()))
        times.recorded_at = self.clock.now()
        self.apply(self.node.recorded(order, self.clock.now()))
        self.program.on_message(Recorded((order,)), self.settings.me)

    async def _append(self, kind: bytes, record: bytes) -> None:
        while True:
            try:
                async with self._recording:
                    await asyncio.to_thread(self.log.append, kind, record)
            except Unavailable as error:
                # The brake stays closed in memory; only the promise to survive a crash waits.
                log("order-not-recorded", level="error", why=str(error), do="free disk space")
                await asyncio.sleep(RECORD_AGAIN_S)
            else:
                return

    def _drop(self, peer: PeerId, why: str, *, is_banned: bool) -> None:
        if is_banned:
            self._banned.add(peer)
        line = self.lines.get(peer)
        log("peer-dropped", level="warning", peer=peer, why=why)
        if line is not None:
            line.socket.close()

    # --- conversations -------------------------------------------------------------------------

    async def converse(
        self, peer: Peer, *, host: str, port: int, socket: Conversation, is_mine: bool
    ) -> None:
        """Talk with `peer` until either side closes. `is_mine`: this node dialled."""
        dialler = self.settings.me if is_mine else peer.id
        if peer.id in self._banned or peer.id == self.settings.me or not self.trusted.is_set():
            socket.close()
            return
        old = self.lines.get(peer.id)
        if old is not None and old.dialler != dialler and old.dialler < dialler:
            socket.close()  # Of two between a pair, the one dialled by the smaller id stays.
            return
        line = Line(peer, socket, dialler, host, port)
        self.lines[peer.id] = line
        if old is not None:
            old.socket.close()
        is_upstream = peer.role is Role.MIRROR and (is_mine or self.settings.role is Role.AGENT)
        node, now = self.node, self.clock.now
        self.apply(node.connected(peer, host=host, is_upstream=is_upstream, now=now()))
        try:
            await self._listen(line)
        finally:
            socket.close()
            if self.lines.get(peer.id) is line:
                del self.lines[peer.id]
                self.apply(node.disconnected(peer.id, now()))

    async def _listen(self, line: Line) -> None:
        async for frame in line.socket.frames():
            if self.lines.get(line.peer.id) is not line:
                return
            try:
                message = decode_message(frame)
                self.apply(self.node.receive(message, line.peer.id, self.clock.now()))
                if isinstance(message, Announce | Health | Recorded | Roster):
                    self.program.on_message(message, line.peer.id)
            except (Refused, Unavailable) as error:
                self._drop(line.peer.id, str(error), is_banned=False)
                return

    async def dial(self, host: str, port: int, role: Role, expect: PeerId | None = None) -> None:
        """Open a standing connection and talk on it until it ends.

        Raises:
            Unavailable, Refused: it could not be opened.
        """
        wanted = role if expect is None else None
        peer, socket = await self.client.dial(host, port, expect=expect, role=wanted)
        await self.converse(peer, host=host, port=port, socket=socket, is_mine=True)

    # --- pieces --------------------------------------------------------------------------------

    async def acquire(self, entry: ReleaseEntry, get: Get) -> None:
        """Fetch a release: its manifest through `get`, its pieces from whoever has them.

        Raises:
            Unavailable, Refused: the manifest cannot be had.
        """
        self.no_room.pop(entry.manifest, None)
        manifest = await self.catalogue.manifest(entry, get)
        pieces = piece_map(entry.manifest, manifest)
        have = Bits(len(pieces.digests))
        for index, digest in enumerate(pieces.digests):
            if await asyncio.to_thread(self.store.get, digest) is not None:
                have.set(index)
        now = self.clock.now()
        self.apply(self.node.learn(entry.manifest, subject_of(entry, manifest.files), now))
        self.apply(self.node.want(pieces, have, now))

    def getter(self, source: PeerId | None) -> "Getter":
        """Fetches small files from the mirror `source`, or from any connected one."""
        return Getter(self, source)

    def address_of(self, peer: PeerId) -> tuple[str, int]:
        """Where `peer` listens.

        Raises:
            Unavailable: it is not connected or has not said.
        """
        line = self.lines.get(peer)
        session = next((one for one in self.node.sessions if one.peer.id == peer), None)
        port = line.port if line and line.port else (session.port if session else 0)
        if line is None or not port:
            raise Unavailable(f"peer {peer[:12]}", why="not connected")
        return line.host, port

    async def _fetch(self, fetch: Fetch) -> None:
        node, number = self.node, fetch.number
        try:
            await self._fetch_pieces(fetch)
        except NoRoom as error:
            self._give_up(fetch.manifest, error)
        except (Untrusted, Halted, Unavailable, Refused) as error:
            lie = isinstance(error, Untrusted)
            log("fetch-failed", level="debug", peer=fetch.peer, why=str(error))
            now = self.clock.now()
            self.apply(node.failed(number, is_lie=lie, retry_after=RETRY_SPAN, now=now))
        else:
            self.apply(node.swarm.finished(number, self.clock.now()))
        finally:
            self._fetches.pop(number, None)

    def _give_up(self, manifest: str, error: NoRoom) -> None:
        log("no-room", level="error", manifest=manifest[:12], why=str(error), do="free disk space")
        self.no_room[manifest] = str(error)
        self.apply(self.node.give_up(manifest, self.clock.now()))
        self.program.on_no_room(manifest)

    async def _fetch_pieces(self, fetch: Fetch) -> None:
        manifest = fetch.manifest
        pieces = self.node.pieces_of(manifest)
        start, end = pieces.range_of(fetch.first, fetch.last)
        wanted = [(pieces.digests[at], pieces.sizes[at]) for at in range(fetch.first, fetch.last)]
        host, port = self.address_of(fetch.peer)
        kind = self._kind_of(fetch.peer)
        arriving = self.client.fetch_range(
            host,
            port,
            expect=fetch.peer,
            manifest=manifest,
            pieces=wanted,
            start=start,
            end=end,
            on_bytes=lambda count: self._received(manifest, kind, count),
        )
        fresh: list[int] = []
        size = 0
        async for index, stored in arriving:
            if not self.node.permits(Gate.FETCH, manifest):
                raise Halted(manifest[:12], level=Gate.FETCH)
            await asyncio.to_thread(self.store.put, wanted[index][0], stored)
            fresh.append(fetch.first + index)
            size += len(stored)
            if size >= GATE_BYTES:
                self._arrived(fetch, fresh)
                fresh, size = [], 0
        self._arrived(fetch, fresh)

    def _arrived(self, fetch: Fetch, fresh: list[int]) -> None:
        if fresh:
            now = self.clock.now()
            self.apply(self.node.fetched(fetch.number, fetch.manifest, tuple(fresh), now))

    def _kind_of(self, peer: PeerId) -> str:
        line = self.lines.get(peer)
        if line is None or line.peer.role is not Role.MIRROR:
            return "peer"
        return "upstream" if self.settings.role is Role.MIRROR else "mirror"

    def _received(self, manifest: str, kind: str, count: int) -> None:
        self.counters.received[kind] += count
        subject = self.node.subjects.get(manifest)
        if subject is not None and not self.node.brake.permits(Gate.FETCH, subject):
            self.counters.covered_bytes += count
            self.counters.covered_last_at = self.clock.now()

    # --- time ----------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            due = self.node.next_wakeup()
            pause = IDLE_SPAN if due is None else max(0.0, due - self.clock.now())
            self._stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, IDLE_SPAN)):
                    await self._stirred.wait()
                continue
            self.apply(self.node.wake(self.clock.now()))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (FiredoorError, OSError) as error:
            log("work-failed", level="warning", why=f"{type(error).__name__}: {error}")


class Getter:
    """A `Get` of catalogue.py over this host's connections: mirrors, or peers where there is none.

    What it brings proves itself, so whoever has it will do.
    """

    def __init__(self, host: Host, source: PeerId | None) -> None:
        self._host = host
        self._source = source

    async def __call__(self, path: str, limit: int) -> bytes:
        """The body at `path`; raises Unavailable or Refused."""
        peers = [line.peer for line in self._host.lines.values()]
        able = [peer.id for peer in peers if peer.role is Role.MIRROR]
        able = able or [peer.id for peer in peers if peer.role is Role.AGENT]
        source = self._source if self._source in able else next(iter(able), None)
        if source is None:
            raise Unavailable(path, why="no mirror is connected")
        address, port = self._host.address_of(source)
        bound = min(limit, METADATA_BYTES_MAX) if path.startswith("/v1/metadata") else limit
        return await self._host.client.get(address, port, path, expect=source, limit=bound)


def subject_of(entry: ReleaseEntry, files: tuple[Any, ...] = ()) -> Subject:
    """The facts of a release that a scope may name."""
    content = bytes.fromhex(str(entry.custom.get("content", "")))
    digests = frozenset(file.digest for file in files)
    return Subject(entry.product, entry.version, content, digests)

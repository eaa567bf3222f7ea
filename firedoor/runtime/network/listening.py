"""Who gets in at a port: handshakes, whole requests and descriptors are bounded before they cost.

* A TLS handshake and the head of a request have seconds, and a body has seconds for each portion
  (peer_server.py). A site is one address behind NAT, so connections are not counted by address: of
  those on which no request is under way there are so many in all and by each certificate, and one
  more ends the oldest. Of handshakes under way there are so many in all; one more ends one whose
  first words are not here, or else the oldest of the address that has the most.
* Descriptors are kept back for operators, for this program's own connections and for its disk.
* What a client has packed is refused by its header (`refuse_packed`), never unpacked.

It decides about connections, not about requests.
"""

import asyncio
import errno
import socket
import ssl
import sys
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web

from firedoor.errors import FiredoorError, Unavailable
from firedoor.identity import PeerId, Role
from firedoor.runtime.keys.tls import peer_of
from firedoor.runtime.logs import log
from firedoor.runtime.settings import split_address
from firedoor.units import UnixTime

# Four round trips of a second each; an honest machine on a busy one needs a tenth.
HANDSHAKE_S = 5.0

# The head of a request, and the time between two on one connection: what the client keeps (8 s,
# peer_client.py) is gone before this.
HEAD_S = 10.0

# Bytes that a peer does not acknowledge end its connection after this.
_UNTAKEN_MS = 20_000

# So does a peer that acknowledges and takes no more, after this many looks without a byte.
LOOK_S = 4.0
STALLS_MAX = 2

# Handshakes under way at once: 25 a second that nobody ends fill this.
HANDSHAKES_MAX = 128

# Connections without a request under way: in all, and by one certificate; an honest mirror has
# some 20.
IDLE_MAX = 256

# Connections of those who have no certificate, on the enrolment listener: whatever they do there.
STRANGERS_MAX = 128
IDLE_PER_PEER_MAX = 32

# Connections of one certificate in all; the places for transfers are counted apart (transfers.py).
PER_PEER_MAX = 64

# Descriptors that connections leave free: the order log, databases, pieces and what this program
# dials itself. Of these, so many connections of operators may take.
RESERVED_DESCRIPTORS = 192
RESERVED_FOR_OPERATORS = 64

# What every system gives; asked for more where the system allows it.
_DESCRIPTORS_MIN = 1024

# Of Linux's struct tcp_info: its size in today's kernels, and where tcpi_bytes_acked stands.
_TCP_INFO_BYTES = 192
_BYTES_ACKED_AT = 120

# A record of TLS: type and version, and two bytes that say how long the rest is.
_RECORD_HEAD = 5
_HANDSHAKE_RECORD = 22
_RECORD_BYTES_MAX = 1 << 14

# After the system had no descriptor left, before the next connection is looked at.
_PAUSE_S = 0.05

_BACKLOG = 1024

# Whoever has no certificate: on the enrolment listener, everybody.
_NOBODY = PeerId("")


@dataclass(slots=True)
class Entry:
    """One connection after its handshake.

    `is_busy`: how many requests are under way on it; `acknowledged`: bytes that its peer had taken
    at the last look, and `stalls`: how many looks ago it took the last one.
    """

    peer: PeerId
    is_operator: bool
    is_busy: int = 0
    acknowledged: int | None = None
    stalls: int = 0


@dataclass(slots=True)
class Handshake:
    """One under way. `has_spoken`: its first words are here whole, as an honest machine's are."""

    task: asyncio.Task[None]
    address: str
    has_spoken: bool = False


@dataclass(slots=True)
class Server:
    """A running listener of one application."""

    runner: web.AppRunner
    context: ssl.SSLContext
    listening: socket.socket
    descriptors: int
    port: int
    entries: "OrderedDict[asyncio.BaseTransport, Entry]" = field(default_factory=OrderedDict)
    handshakes: "OrderedDict[int, Handshake]" = field(default_factory=OrderedDict)
    ended: int = 0
    _number: int = 0
    _working: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to accept."""
        works = (self._accept(), self._watch())
        self._working = tuple(asyncio.ensure_future(each) for each in works)

    async def close(self) -> None:
        """Stop listening and end what is under way."""
        tasks = [*(each.task for each in self.handshakes.values()), *self._working]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.listening.close()
        await self.runner.cleanup()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self.listening)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    log("no-descriptors", level="error", do="raise LimitNOFILE of this program")
                    self._end_a_handshake()
                    self._end_idle(lambda _: True)
                await asyncio.sleep(_PAUSE_S)
                continue
            # asyncio's own loop would else take a whole crowd before any handshake begins.
            await asyncio.sleep(0)
            if len(self.handshakes) >= HANDSHAKES_MAX:
                self._end_a_handshake()
            self._number += 1
            task = asyncio.ensure_future(self._shake_hands(accepted, self._number))
            self.handshakes[self._number] = Handshake(task, str(address[0]))

    async def _shake_hands(self, accepted: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            accepted.setblocking(False)  # noqa: FBT003  # the standard library's signature
            _bound_untaken(accepted)
            async with asyncio.timeout(HANDSHAKE_S):
                await _first_words(accepted)
            self.handshakes[number].has_spoken = True
            assert self.runner.server is not None
            transport, _ = await loop.connect_accepted_socket(
                self.runner.server,
                accepted,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, TimeoutError, RuntimeError, asyncio.CancelledError):
            # Whoever ended it, on either side, has nothing to hear.
            accepted.close()
            return
        finally:
            self.handshakes.pop(number, None)
        self._let_in(transport)

    def _let_in(self, transport: asyncio.BaseTransport) -> None:
        # Its first request may have come with the end of its handshake, and be under way.
        entry = self.entries.pop(transport, None) or _entry_of(transport)
        self._forget_closed()
        mine = [each for each in self.entries.values() if each.peer == entry.peer]
        idle = [each for each in mine if not each.is_busy]
        if not entry.peer:
            if len(mine) >= STRANGERS_MAX:
                self._end_oldest_stranger()
        elif len(idle) >= IDLE_PER_PEER_MAX:
            self._end_idle(lambda each: each.peer == entry.peer)
        elif sum(not each.is_busy for each in self.entries.values()) >= IDLE_MAX:
            self._end_idle(lambda _: True)
        # Of a program with two listeners, the other one may be as crowded.
        room = self.descriptors - RESERVED_DESCRIPTORS - 2 * HANDSHAKES_MAX - STRANGERS_MAX
        room += RESERVED_FOR_OPERATORS if entry.is_operator else 0
        is_crowd = entry.peer and len(mine) >= PER_PEER_MAX
        if is_crowd or (len(self.entries) >= room and not self._end_idle(lambda _: True)):
            self.ended += 1
            _abort(transport)
            return
        self.entries[transport] = entry

    def _forget_closed(self) -> None:
        for transport in [each for each in self.entries if each.is_closing()]:
            del self.entries[transport]

    def _end_a_handshake(self) -> None:
        """End the oldest that has said nothing; else of the address with the most of them."""
        able = [number for number, each in self.handshakes.items() if not each.has_spoken]
        if not able:
            counts = Counter(each.address for each in self.handshakes.values())
            most = counts.most_common(1)[0][0] if counts else ""
            able = [number for number, each in self.handshakes.items() if each.address == most]
        if able:
            self.ended += 1
            self.handshakes.pop(able[0]).task.cancel()

    def _end_oldest_stranger(self) -> None:
        for transport, entry in self.entries.items():
            if not entry.peer:
                del self.entries[transport]
                self.ended += 1
                _abort(transport)
                return

    async def _watch(self) -> None:
        """End connections whose other side takes nothing of what it has asked for."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._forget_closed()
            for transport, entry in [*self.entries.items()]:
                acknowledged = _acknowledged(transport)
                waits = cast("asyncio.WriteTransport", transport).get_write_buffer_size() > 0
                is_stalled = waits and acknowledged == entry.acknowledged is not None
                entry.acknowledged = acknowledged
                entry.stalls = entry.stalls + 1 if is_stalled else 0
                if entry.stalls >= STALLS_MAX:
                    self.entries.pop(transport, None)
                    self.ended += 1
                    _abort(transport)

    def _end_idle(self, is_meant: Callable[[Entry], bool]) -> bool:
        """End the oldest connection that is meant and has no request under way; whether one was."""
        for transport, entry in self.entries.items():
            if not entry.is_busy and is_meant(entry):
                del self.entries[transport]
                self.ended += 1
                _abort(transport)
                return True
        return False

    @web.middleware
    async def note_request(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Middleware: a connection with a request under way is not ended for being idle."""
        if request.transport is None:
            return await handler(request)
        entry = self.entries.get(request.transport)
        if entry is None:
            entry = self.entries[request.transport] = _entry_of(request.transport)
        entry.is_busy += 1
        try:
            return await handler(request)
        finally:
            entry.is_busy -= 1


@web.middleware
async def refuse_packed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Middleware: no request is packed, for unpacking one may cost half a second of the loop."""
    if "Content-Encoding" in request.headers:
        table = {"code": "packed", "error": "wanted a body that is not packed, got one that is"}
        response = web.json_response(table, status=415)
        response.force_close()
        return response
    return await handler(request)


async def serve(app: web.Application, listen: str, context: ssl.SSLContext) -> Server:
    """Listen at HOST:PORT (port 0 takes a free one).

    Raises:
        Unavailable: the address is taken or not this machine's.
    """
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Unavailable(f"listening on {listen}", why=why) from error
    listening.setblocking(False)  # noqa: FBT003  # the standard library's signature
    # Never unpacked, not even while the rest of a refused body is read away.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=1.0,
        keepalive_timeout=HEAD_S,
        lingering_time=0.0,
        auto_decompress=False,
    )
    server = Server(runner, context, listening, _descriptors(), int(listening.getsockname()[1]))
    app.middlewares.insert(0, server.note_request)
    app.middlewares.insert(1, refuse_packed)
    await runner.setup()
    server.start()
    return server


async def _first_words(accepted: socket.socket) -> None:
    """Wait until a whole record of TLS has come, which stays unread.

    Raises:
        OSError: what comes is none, or it has hung up.
    """
    if not hasattr(socket, "MSG_DONTWAIT"):
        return  # Windows; there a handshake begins at once (untested there).
    await _readable(accepted)
    while True:
        head = accepted.recv(_RECORD_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        size = int.from_bytes(head[3:_RECORD_HEAD])
        if not head or head[0] != _HANDSHAKE_RECORD or size > _RECORD_BYTES_MAX:
            raise ConnectionAbortedError("wanted a handshake")
        wanted = _RECORD_HEAD + size
        peeked = accepted.recv(wanted, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        if len(head) == _RECORD_HEAD and len(peeked) == wanted:
            return
        # It comes in several segments, or by somebody who has time.
        await asyncio.sleep(_PAUSE_S)


async def _readable(accepted: socket.socket) -> None:
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(accepted.fileno(), came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(accepted.fileno())


def _descriptors() -> int:
    """How many descriptors this program may have; as many as the system allows."""
    if sys.platform == "win32":
        return _DESCRIPTORS_MIN * 8
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return min(soft, 1 << 20) if soft > 0 else 1 << 20


def _acknowledged(transport: asyncio.BaseTransport) -> int | None:
    """The bytes that the other side has acknowledged; None where the system does not tell.

    Linux tells; elsewhere a peer that takes nothing is left to the kernel (untested there).
    """
    held = transport.get_extra_info("socket")
    if held is None or not sys.platform.startswith("linux"):
        return None
    try:
        told = held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (OSError, ValueError):
        return None
    if len(told) < _BYTES_ACKED_AT + 8:
        return None
    return int.from_bytes(told[_BYTES_ACKED_AT : _BYTES_ACKED_AT + 8], sys.byteorder)


def _entry_of(transport: asyncio.BaseTransport) -> Entry:
    try:
        peer = peer_of(transport.get_extra_info("peercert"), UnixTime(0))
    except FiredoorError:
        return Entry(_NOBODY, is_operator=False)
    return Entry(peer.id, peer.role is Role.OPERATOR)


def _bound_untaken(accepted: socket.socket) -> None:
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MS)


def _abort(transport: asyncio.BaseTransport) -> None:
    # uvloop's transports are no subclasses of asyncio's.
    cast("asyncio.WriteTransport", transport).abort()

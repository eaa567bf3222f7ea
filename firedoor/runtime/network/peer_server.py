"""The one mTLS port of a program: /v1 over aiohttp, with a range handler of our own.

Who asks is read from the certificate. The gate is asked before each 64 KiB and a closed one resets
the connection. No response is cached, compressed or buffered outside the gate.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from aiohttp import web
from msgspec import json

from firedoor.errors import (
    Absent,
    FiredoorError,
    Halted,
    Malformed,
    Refused,
    TooLarge,
    Unavailable,
    Untrusted,
)
from firedoor.identity import Peer, Role
from firedoor.limits import FRAME_BYTES_MAX, GATE_BYTES
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.tls import peer_of
from firedoor.runtime.network.conversation import CLOSE_S, Conversation
from firedoor.runtime.network.metrics import Metrics
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.small_files import SmallFiles
from firedoor.runtime.network.transfers import Transfer, Transfers
from firedoor.units import Instant, Span, after
from firedoor.wire.versions import HEADER, SPOKEN, spoken_by

# Of a body, some bytes at least within this: a piece of 4 MiB takes minutes on a thin line.
PORTION_S = 10.0

# A status that took so long is good for so many times as long: askers cost a twentieth of the loop.
_STATUS_REST = 20

CLOCK = web.AppKey("clock", Clock)
"""Under which an application keeps its clock."""

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})")

# 425 Too Early: ask again after the order sync. 451: the brake says no.
STATUS_OF: tuple[tuple[type[FiredoorError], int], ...] = (
    (Halted, 451),
    (Absent, 404),
    (Unavailable, 425),
    (Untrusted, 403),
    (TooLarge, 413),
    (Refused, 400),
)


class Backend(Protocol):
    """What the server asks of the program."""

    async def converse(self, peer: Peer, host: str, socket: Conversation) -> None:
        """Talk until the conversation ends."""

    def pieces(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests in a range; raises why not, KeyError when the release is not held."""

    def refuses(self, peer: Peer) -> bool:
        """Whether this peer is banned."""

    def permits(self, manifest: str) -> bool:
        """Whether bytes of the release may still leave."""

    async def piece(self, digest: bytes) -> bytes | None:
        """One stored piece."""

    async def metadata(self, name: str) -> bytes | None:
        """One file of signed metadata."""

    async def target(self, digest: str) -> bytes | None:
        """One manifest."""

    def status(self, peer: Peer) -> dict[str, Any]:
        """What `peer` may know of this program."""

    def sent(self, peer: Peer, count: int) -> None:
        """So many bytes of pieces went out."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A status as it was made, good until then."""

    table: dict[str, Any]
    body: bytes
    until: Instant


class PeerApi:
    """The handlers of /v1 over one backend."""

    def __init__(
        self, backend: Backend, *, transfers: Transfers, budget: Budget, clock: Clock
    ) -> None:
        self._backend = backend
        self._transfers = transfers
        self._budget = budget
        self._clock = clock
        self._files = SmallFiles()
        self._metrics = Metrics()
        self._statuses: dict[tuple[Role, str], _Seen] = {}

    def routes(self) -> list[web.RouteDef]:
        """Every route of this file."""
        return [
            web.get("/v1/peer", self.converse),
            web.get("/v1/metadata/{name}", self.metadata),
            web.get("/v1/targets/{path:.+}", self.target),
            web.get("/v1/releases/{manifest}/payload", self.payload),
            web.get("/v1/status", self.status),
            web.get("/v1/metrics", self.metrics),
        ]

    async def converse(self, request: web.Request) -> web.StreamResponse:
        """The standing connection of one peer."""
        peer = peer_of_request(request, self._clock)
        socket = web.WebSocketResponse(
            max_msg_size=FRAME_BYTES_MAX, compress=False, timeout=CLOSE_S
        )
        socket.headers[HEADER] = str(SPOKEN)
        try:
            await socket.prepare(request)
        except ConnectionError:
            # The dialler gave up before we answered.
            return socket
        conversation = Conversation(socket, spoken_by(request.headers.get(HEADER)))
        try:
            await self._backend.converse(peer, request.remote or "", conversation)
        finally:
            await conversation.closed()
        return socket

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        """One file of signed metadata; public within the fleet and good past any date."""
        peer, name = peer_of_request(request, self._clock), request.match_info["name"]
        read = partial(self._backend.metadata, name)
        return await self._files.send(request, peer.id, read, is_fixed=name != "timestamp.json")

    async def target(self, request: web.Request) -> web.StreamResponse:
        """A manifest, by the digest that its consistent-snapshot name begins with."""
        peer = peer_of_request(request, self._clock)
        _current(peer)
        digest = request.match_info["path"].rpartition("/")[2].partition(".")[0]
        read = partial(self._backend.target, digest)
        return await self._files.send(request, peer.id, read, is_fixed=True)

    async def status(self, request: web.Request) -> web.Response:
        """What this program has and does."""
        body = self._seen(peer_of_request(request, self._clock)).body
        return web.Response(body=body, content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        """The same in numbers, for Prometheus."""
        status = self._seen(peer_of_request(request, self._clock)).table
        return web.Response(body=self._metrics.render(status), content_type="text/plain")

    def _seen(self, peer: Peer) -> "_Seen":
        """The status for a peer of this role: made anew once making it has cost little for long."""
        key = (peer.role, peer.id if peer.role is Role.AGENT else "")
        seen, now = self._statuses.get(key), self._clock.now()
        if seen is None or now >= seen.until:
            table = self._backend.status(peer)
            body = json.encode(table)
            cost = self._clock.now() - now
            seen = _Seen(table, body, after(now, Span(cost * _STATUS_REST)))
            # An agent sees its own alone, so there are three at most.
            self._statuses[key] = seen
        return seen

    async def payload(self, request: web.Request) -> web.StreamResponse:
        """A run of pieces, in the name of a release."""
        peer = peer_of_request(request, self._clock)
        manifest = request.match_info["manifest"]
        found = _RANGE.fullmatch(request.headers.get("Range", ""))
        if found is None:
            raise Malformed("Range", wanted="bytes=FIRST-LAST", got="another or none")
        start, end = int(found[1]), int(found[2]) + 1
        try:
            digests = self._backend.pieces(peer, manifest, start, end)
        except KeyError as error:
            raise Absent(f"release {manifest[:12]}", why="no such release here") from error
        response = web.StreamResponse(status=206)
        response.content_length = end - start
        assert request.transport is not None
        with self._transfers.open(manifest, peer.id, request.transport) as transfer:
            try:
                await response.prepare(request)
                for digest in digests:
                    await self._send_piece(response, transfer, peer, digest)
                await response.write_eof()
            except ConnectionError:
                # Halted, or the reader has gone: a short body is an error at its side already.
                transfer.reset()
        return response

    async def _send_piece(
        self, response: web.StreamResponse, transfer: Transfer, peer: Peer, digest: bytes
    ) -> None:
        stored = await self._backend.piece(digest)
        if stored is None:
            transfer.reset()
            raise ConnectionResetError("a piece is gone")
        view = memoryview(stored)
        for at in range(0, len(view), GATE_BYTES):
            portion = view[at : at + GATE_BYTES]
            await self._budget.take(len(portion))
            may = self._backend.permits(transfer.manifest) and not self._backend.refuses(peer)
            if transfer.is_cut or not may:
                transfer.reset()
                raise ConnectionResetError("halted")
            await response.write(portion)
            transfer.has_moved = True
            self._backend.sent(peer, len(portion))


def build_app(
    backend: Backend,
    *,
    transfers: Transfers,
    budget: Budget,
    clock: Clock,
    extra_routes: Sequence[web.RouteDef] = (),
) -> web.Application:
    """The application of one program; `extra_routes` are its own."""

    @web.middleware
    async def refuse_banned(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        peer = peer_of_request(request, clock)
        if backend.refuses(peer):
            raise Untrusted(f"peer {peer.id[:12]}", wanted="one that is not banned", got="banned")
        return await handler(request)

    app = web.Application(middlewares=[say_errors, refuse_banned])
    api = PeerApi(backend, transfers=transfers, budget=budget, clock=clock)
    app.add_routes([*api.routes(), *extra_routes])
    app[CLOCK] = clock
    return app


def peer_of_request(request: web.Request, clock: Clock) -> Peer:
    """Who asks, from the certificate.

    Raises:
        Untrusted: a certificate that names nobody.
    """
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    return peer_of(certificate, clock.unix())


def require_length(request: web.Request, limit: int) -> None:
    """Nothing, unless the request says that its body has more than `limit` bytes.

    Raises:
        TooLarge: it does.
    """
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge("body", limit=limit, size=request.content_length)


async def read_body(
    request: web.Request, limit: int, *, before_each: Callable[[], None] = lambda: None
) -> bytes:
    """The body of a request, if it has at most `limit` bytes.

    `before_each`: is asked before each 64 KiB, and raises where no more may come.

    Raises:
        TooLarge: it has more, or says so; the rest is not read.
    """
    require_length(request, limit)
    parts: list[bytes] = []
    size = 0
    while part := await _portion(request):
        before_each()
        size += len(part)
        if size > limit:
            raise TooLarge("body", limit=limit, size=size)
        parts.append(part)
    return b"".join(parts)


async def _portion(request: web.Request) -> bytes:
    """The next of a body, within PORTION_S; empty at its end.

    Raises:
        Unavailable: it does not come; the connection is ended, for it is of no more use.
    """
    try:
        async with asyncio.timeout(PORTION_S):
            return await request.content.read(GATE_BYTES)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise Unavailable("body", why=f"nothing of it came in {PORTION_S:g} s") from error


@web.middleware
async def say_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn our errors into a status and `{code, error}`."""
    try:
        response = await handler(request)
    except FiredoorError as error:
        status = next((number for kind, number in STATUS_OF if isinstance(error, kind)), 400)
        if isinstance(error, Malformed) and error.what == "Range":
            status = 416
        return web.json_response({"code": error.code, "error": str(error)}, status=status)
    return response


def _current(peer: Peer) -> None:
    if not peer.is_current:
        raise Untrusted("certificate", wanted="one within its dates", got="an expired one")

"""Dialling other peers: a standing connection, small files, and runs of pieces.

Orders and pieces never share a connection. The server is verified by the name of the peer or role
that was meant. A piece is handed on only after its digest has been checked.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from ssl import SSLError
from typing import Any

import aiohttp
from blake3 import blake3

from firedoor.errors import Absent, Denied, FiredoorError, Halted, TooLarge, Unavailable, Untrusted
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import FRAME_BYTES_MAX, GATE_BYTES
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.tls import Credentials, client_context, peer_of, role_name, server_name
from firedoor.runtime.network.conversation import CLOSE_S, Conversation
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.terminal import plain
from firedoor.units import KIB
from firedoor.wire.versions import HEADER, SPOKEN, spoken_by

# TCP and TLS over a line with a second of delay take four; a dead address must not cost more.
CONNECT_S = 8.0

# A peer's first word on a small file, and each 16 KiB of it after that: a line of 256 kbit/s that a
# release shares brings both in two. Whoever trickles is given up all the same.
ANSWER_S = 5.0
_PORTION_BYTES = 16 * 1024

# An unused connection is let go of before a server ends it (listening.py).
_KEPT_S = 8.0

# A peer that sends nothing of a response for this long is gone.
READ_S = 30.0

# A paced receiver keeps little in the kernel: what lies there was sent before any halt.
_RECEIVE_BUFFER_BYTES = 64 * 1024

# What two requests may have on the way over a thin line is half a second of 256 kbit/s: whatever
# waits before that line delays an order, whose connection shares it. Measured with 64 KB of queue
# there: a halt after 2.0 s, and with this after 0.46 s.
_THIN_BUFFER_BYTES = 8 * 1024


# `{code, error}` of a peer that says no.
_SENTENCE_BYTES_MAX = 4 * KIB


# The sentence of `Halted`, taken apart again.
_HALTED = re.compile(r"(.*) is halted at level (\d)")


class PeerClient:
    """The dialling side of one identity."""

    def __init__(
        self, credentials: Credentials, clock: Clock, budget: Budget, *, is_thin: bool = False
    ) -> None:
        self._is_thin = is_thin
        self.context = client_context(credentials)
        self._clock = clock
        self._budget = budget
        self._talk: aiohttp.ClientSession | None = None
        self._move: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End every connection."""
        for session in (self._talk, self._move):
            if session is not None:
                await session.close()

    async def dial(
        self,
        host: str,
        port: int,
        *,
        expect: PeerId | None = None,
        role: Role | None = None,
        span_s: float = CONNECT_S,
    ) -> tuple[Peer, Conversation]:
        """Open the standing connection within `span_s`; the peer is the one in its certificate.

        Raises:
            Unavailable: nobody answers, or one side's certificate was not accepted.
        """
        name = _name(expect, role)
        try:
            async with asyncio.timeout(span_s):
                ws = await self._talking().ws_connect(
                    _url(host, port, "/v1/peer"),
                    ssl=self.context,
                    server_hostname=name,
                    max_msg_size=FRAME_BYTES_MAX,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                    headers={HEADER: str(SPOKEN)},
                )
        except (aiohttp.ClientError, OSError, TimeoutError, SSLError) as error:
            raise _unavailable(host, port, error) from error
        assert isinstance(ws, _Upgraded)
        peer = peer_of(ws.get_extra_info("peercert"), self._clock.unix())
        return peer, Conversation(ws, spoken_by(ws.header))

    async def prove(self, host: str, port: int, role: Role, *, span_s: float = CONNECT_S) -> Peer:
        """The peer that listens there, by its certificate; nothing is asked of it.

        Raises:
            Unavailable: nobody answers, or nobody of this role.
        """
        try:
            async with asyncio.timeout(span_s):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=self.context, server_hostname=role_name(role)
                )
        except (OSError, TimeoutError, SSLError) as error:
            raise _unavailable(host, port, error) from error
        try:
            return peer_of(writer.get_extra_info("peercert"), self._clock.unix())
        finally:
            writer.transport.abort()

    async def get(
        self,
        host: str,
        port: int,
        path: str,
        *,
        limit: int,
        expect: PeerId | None = None,
        role: Role | None = None,
    ) -> bytes:
        """The body at `path`.

        Raises:
            Unavailable: nobody answers, or not now.
            Refused, Halted: the peer says no, in its own sentence.
        """
        name = _name(expect, role)
        return await self._ask("GET", _url(host, port, path), name, limit=limit)

    async def post(
        self,
        host: str,
        port: int,
        path: str,
        body: bytes,
        *,
        limit: int,
        expect: PeerId | None = None,
        role: Role = Role.MIRROR,
        headers: dict[str, str] | None = None,
        span_s: float = READ_S,
    ) -> bytes:
        """The answer to `body` at `path`, within `span_s`; raises as `get`."""
        url, name = _url(host, port, path), _name(expect, None if expect else role)
        return await self._ask(
            "POST", url, name, limit=limit, body=body, headers=headers, span_s=span_s
        )

    async def fetch_range(
        self,
        host: str,
        port: int,
        *,
        expect: PeerId,
        manifest: str,
        pieces: Sequence[tuple[bytes, int]],
        start: int,
        end: int,
        on_bytes: Callable[[int], None],
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The pieces of a range (digest and size each), whole and verified, as they arrive.

        Raises:
            Untrusted: bytes that are not the piece.
            Unavailable: not now (`sync` first), or a body that ended early.
            Halted: the peer's brake is closed.
        """
        url = _url(host, port, f"/v1/releases/{manifest}/payload")
        headers = {"Range": f"bytes={start}-{end - 1}"}
        request = self._moving().get(
            url,
            headers=headers,
            ssl=self.context,
            server_hostname=server_name(expect),
            allow_redirects=False,
        )
        try:
            async with request as response:
                await _check(response)
                for index, (digest, size) in enumerate(pieces):
                    stored = await self._read_piece(response, size, on_bytes)
                    if blake3(stored).digest() != digest:
                        raise Untrusted("piece", wanted=digest.hex()[:12], got="other bytes")
                    yield index, stored
        except (aiohttp.ClientError, OSError, TimeoutError, SSLError) as error:
            raise _unavailable(host, port, error) from error

    async def _read_piece(
        self, response: aiohttp.ClientResponse, size: int, on_bytes: Callable[[int], None]
    ) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            part = await response.content.read(min(missing, GATE_BYTES))
            if not part:
                raise Unavailable("pieces", why="the body ended early")
            on_bytes(len(part))
            await self._budget.take(len(part))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def _ask(
        self,
        method: str,
        url: str,
        name: str,
        *,
        limit: int,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        span_s: float = READ_S,
    ) -> bytes:
        try:
            request = self._talking().request(
                method,
                url,
                data=body,
                headers=headers,
                ssl=self.context,
                server_hostname=name,
                allow_redirects=False,
            )
            began = ANSWER_S if method == "GET" else span_s
            async with asyncio.timeout(span_s):
                async with asyncio.timeout(began):
                    response = await request
                async with response:
                    await _check(response)
                    return await read_at_most(response, limit)
        except (aiohttp.ClientError, OSError, TimeoutError, SSLError) as error:
            raise Unavailable(url, why=_words(error)) from error

    def _talking(self) -> aiohttp.ClientSession:
        if self._talk is None:
            self._talk = _session()
        return self._talk

    def _moving(self) -> aiohttp.ClientSession:
        if self._move is None:
            size = _RECEIVE_BUFFER_BYTES if self._budget.bytes_per_s else 0
            size = _THIN_BUFFER_BYTES if self._is_thin else size
            self._move = _session(partial(_small_socket, size) if size else None)
        return self._move


class _Upgraded(aiohttp.ClientWebSocketResponse):
    """A WebSocket that knows what the other side said when it was opened.

    aiohttp keeps the response of the upgrade to itself; this class is its own way to look at it.
    """

    @property
    def header(self) -> str | None:
        """What the other side speaks, as it says."""
        return self._response.headers.get(HEADER)


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, if it has at most `limit` bytes.

    Raises:
        TooLarge: it has more; the rest is not read.
        TimeoutError: it comes too slowly.
    """
    parts: list[bytes] = []
    size = 0
    while part := await _portion(response):
        size += len(part)
        if size > limit:
            raise TooLarge(str(response.url.path), limit=limit, size=size)
        parts.append(part)
    return b"".join(parts)


async def _portion(response: aiohttp.ClientResponse) -> bytes:
    """The next of the body, which must come within ANSWER_S; empty at its end."""
    parts: list[bytes] = []
    missing = _PORTION_BYTES
    async with asyncio.timeout(ANSWER_S):
        while missing and (part := await response.content.read(missing)):
            parts.append(part)
            missing -= len(part)
    return b"".join(parts)


def _session(factory: Callable[[Any], socket.socket] | None = None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S, socket_factory=factory)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        read_bufsize=GATE_BYTES,
        ws_response_class=_Upgraded,
    )


def _small_socket(size: int, address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    made.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return made


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status in {200, 206}:
        return
    try:
        said = json.loads(await read_at_most(response, _SENTENCE_BYTES_MAX))
        sentence = plain(said["error"])
    # Deep brackets make json raise RecursionError.
    except (ValueError, KeyError, TypeError, RecursionError, FiredoorError):
        sentence = f"HTTP {response.status}"
    match response.status:
        case 451:
            found = _HALTED.fullmatch(sentence)
            raise Halted(found[1] if found else sentence, level=int(found[2]) if found else 1)
        case 404:
            raise Absent(response.url.path, why=sentence)
        case 425 | 500 | 502 | 503:
            raise Unavailable(response.url.path, why=sentence)
        case _:
            raise Denied(f"{response.url.host} says: {sentence}")


def _name(expect: PeerId | None, role: Role | None) -> str:
    if expect is not None:
        return server_name(expect)
    if role is None:
        raise ValueError("dial: wanted a peer or a role to verify, got neither")
    return role_name(role)


def _url(host: str, port: int, path: str) -> str:
    return f"https://{f'[{host}]' if ':' in host else host}:{port}{path}"


def _unavailable(host: str, port: int, error: Exception) -> Unavailable:
    return Unavailable(f"{host}:{port}", why=_words(error))


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not of this fleet or not of the expected peer ({error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or "cannot connect"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "it closed the connection; a likely cause is that it refused our certificate"
    return f"{type(error).__name__}: {error}"[:200]

"""What only the origin answers, to operators alone: publishing, keys, tokens, certificates."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from firedoor.errors import Malformed
from firedoor.identity import PeerId, Role
from firedoor.limits import (
    ENROLMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
    PIECE_BYTES_MAX,
    PIECES_MAX,
)
from firedoor.runtime.keys.operator_proof import HEADER, Request
from firedoor.runtime.network.peer_server import CLOCK, read_body, require_length
from firedoor.wire.codec import digests_of, pack, unpack
from firedoor.wire.json_text import json_map, read_json
from mirror.api.requests import asker, piece_of, require
from mirror.origin.origin import Origin
from mirror.origin.rotation import ROTATION_BYTES_MAX

T = TypeVar("T")

# The largest body is a release: a publisher's metadata, a manifest, and their names.
_NAMES_BYTES = 1024

_TOKEN_SPAN_S_MAX = 7 * 86400


class TokenRequest(msgspec.Struct, frozen=True):
    """What an operator asks a token for."""

    role: Literal["agent", "mirror"]
    site: Annotated[str, Meta(max_length=64)]
    ring: Annotated[str, Meta(max_length=64)]
    span_s: Annotated[int, Meta(ge=1, le=_TOKEN_SPAN_S_MAX)]


class Daemon(Protocol):
    """What the routes ask of the running origin."""

    async def repository_changed(self) -> None:
        """A release or other keys were taken in."""

    async def certificate(self, order: bytes) -> bytes:
        """The certificate of a halt."""


class OriginApi:
    """The origin's handlers."""

    def __init__(self, origin: Origin, daemon: Daemon) -> None:
        self._origin = origin
        self._daemon = daemon
        self._taking: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        """Every route that takes an operator's certificate."""
        return [
            web.post("/v1/publish/missing", self.missing),
            web.post("/v1/publish/piece", self.piece),
            web.post("/v1/publish/release", self.release),
            web.post("/v1/keys/fresh", self.fresh_key),
            web.post("/v1/keys/rotate", self.rotate),
            web.post("/v1/keys/certificate", self.certify),
            web.post("/v1/tokens", self.token),
            web.get("/v1/certificate/{order:[0-9a-f]{64}}", self.certificate),
        ]

    async def missing(self, request: web.Request) -> web.Response:
        """Which of these pieces the origin lacks; those are announced now, and others not taken."""
        require(request, Role.OPERATOR)
        body = await read_body(request, PIECES_MAX * 34 + 16)
        digests = await asyncio.to_thread(digests_of, body, what="digests")
        publisher, now = asker(request).id, request.app[CLOCK].now()
        announce = self._origin.incoming.announce
        lacking = await asyncio.to_thread(announce, publisher, digests, now)
        return web.Response(body=pack(lacking))

    async def piece(self, request: web.Request) -> web.Response:
        """Take in one piece under its digest."""
        require(request, Role.OPERATOR)
        require_length(request, PIECE_BYTES_MAX)
        publisher, digest, incoming = asker(request).id, piece_of(request), self._origin.incoming
        await asyncio.to_thread(incoming.require_announced, publisher, digest)
        stored = await read_body(request, PIECE_BYTES_MAX)
        await asyncio.to_thread(incoming.put, publisher, digest, stored, request.app[CLOCK].now())
        return web.Response()

    async def release(self, request: web.Request) -> web.Response:
        """Add one signed release; it is announced when the answer goes out."""
        require(request, Role.OPERATOR)
        most = METADATA_BYTES_MAX + self._origin.bound.size + _NAMES_BYTES
        body = unpack(await read_body(request, most), what="release", limit=most)
        if not isinstance(body, dict) or set(body) != {"role", "metadata", "manifest"}:
            raise Malformed("release", wanted="role, metadata, manifest", got=type(body).__name__)
        role, metadata, manifest = body["role"], body["metadata"], body["manifest"]
        if not (
            isinstance(role, str) and isinstance(metadata, bytes) and isinstance(manifest, bytes)
        ):
            raise Malformed("release", wanted="a text and two byte strings", got="other types")
        publisher = asker(request).id
        digest = await self._to_the_end(self._take(role, metadata, manifest, publisher))
        return web.json_response({"manifest": digest})

    async def _take(self, role: str, metadata: bytes, manifest: bytes, publisher: PeerId) -> str:
        accept = self._origin.accept_release
        done = await asyncio.to_thread(accept, role, metadata, manifest, publisher)
        await self._daemon.repository_changed()
        return done.manifest

    async def fresh_key(self, request: web.Request) -> web.Response:
        """The public half of a new online key, made here and waiting for root to name it."""
        body = await self._operators_body(request, ENROLMENT_BYTES_MAX)
        role = body.decode(errors="replace")
        public = await asyncio.to_thread(self._origin.fresh_key, role)
        return web.json_response({"public": public})

    async def certify(self, request: web.Request) -> web.Response:
        """A certificate for a new key file of people."""
        body = await self._operators_body(request, ENROLMENT_BYTES_MAX)
        return web.Response(body=await self._origin.certify(body))

    async def rotate(self, request: web.Request) -> web.Response:
        """Take in keys that root has turned; it is announced when the answer goes out."""
        body = await self._operators_body(request, ROTATION_BYTES_MAX)
        await self._to_the_end(self._turn(body))
        return web.Response()

    async def _turn(self, body: bytes) -> None:
        await asyncio.to_thread(self._origin.accept_rotation, body)
        await self._daemon.repository_changed()

    async def _operators_body(self, request: web.Request, limit: int) -> bytes:
        """The body of a request that an operator has signed.

        Raises:
            Untrusted: another key file's, or nobody's: a certificate alone will not do.
        """
        require(request, Role.OPERATOR)
        body = await read_body(request, limit)
        now = request.app[CLOCK].unix()
        asked = Request(request.path, asker(request).id, now, body)
        header = request.headers.get(HEADER, "")
        await asyncio.to_thread(self._origin.check_operator, header, asked, now)
        return body

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry `work` through even if the asker hangs up: half of it is worse than all."""
        task = asyncio.ensure_future(work)
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return await asyncio.shield(task)

    async def certificate(self, request: web.Request) -> web.Response:
        """The certificate of a halt, as it stands."""
        require(request, Role.OPERATOR)
        order = bytes.fromhex(request.match_info["order"])
        return web.Response(body=await self._daemon.certificate(order))

    async def token(self, request: web.Request) -> web.Response:
        """A new enrolment secret."""
        body = await self._operators_body(request, ENROLMENT_BYTES_MAX)
        asked = read_json(TokenRequest, json_map(body, "token"), "token")
        grant = (Role(asked.role), asked.site, asked.span_s, asked.ring)
        token = await asyncio.to_thread(self._origin.issue_token, *grant)
        return web.json_response({"token": token})

"""Where a stick docks: the routes of a mirror that has no upstream, for operators alone.

Metadata comes first and needs no conversation; orders come as always, on /v1/peer. What may move
is asked at the gate before each 64 KiB.
"""

from typing import Protocol

from aiohttp import web

from firedoor.identity import Role
from firedoor.limits import ALL_METADATA_BYTES_MAX, MANIFEST_BYTES_MAX, PIECE_BYTES_MAX
from firedoor.runtime.metadata.offline_source import CarriedFiles
from firedoor.runtime.network.peer_server import read_body
from firedoor.wire.codec import decode, encode, pack
from firedoor.wire.stick import STICK_BYTES_MAX, Inbound, MetadataFiles
from mirror.airgap.carrying import Carrying
from mirror.api.requests import piece_of, require


class Daemon(Protocol):
    """What the routes ask of the running mirror."""

    async def refresh_from(self, files: CarriedFiles) -> None:
        """Believe newer metadata."""

    def look_for_releases(self) -> None:
        """What may come has changed."""


class StickApi:
    """The handlers."""

    def __init__(self, carrying: Carrying, daemon: Daemon) -> None:
        self._carrying = carrying
        self._daemon = daemon

    def routes(self) -> list[web.RouteDef]:
        """Every route of this file."""
        release = "{manifest:[0-9a-f]{64}}"
        return [
            web.get("/v1/stick", self.outbound),
            web.post("/v1/stick", self.inbound),
            web.post("/v1/stick/metadata", self.metadata),
            web.post(f"/v1/stick/manifest/{release}", self.manifest),
            web.get(f"/v1/stick/missing/{release}", self.missing),
            web.post(f"/v1/stick/piece/{release}", self.piece),
            web.post(f"/v1/stick/whole/{release}", self.whole),
        ]

    async def outbound(self, request: web.Request) -> web.Response:
        """What the stick takes along."""
        require(request, Role.OPERATOR)
        return web.Response(body=encode(await self._carrying.outbound()))

    async def inbound(self, request: web.Request) -> web.Response:
        """What it brings home; the answer says what became of it."""
        require(request, Role.OPERATOR)
        body = await read_body(request, STICK_BYTES_MAX)
        brought = decode(Inbound, body, what="stick", limit=STICK_BYTES_MAX)
        done = await self._carrying.inbound(brought)
        self._daemon.look_for_releases()
        return web.Response(body=encode(done))

    async def metadata(self, request: web.Request) -> web.Response:
        """Signed metadata, whole."""
        require(request, Role.OPERATOR)
        body = await read_body(request, ALL_METADATA_BYTES_MAX)
        brought = decode(MetadataFiles, body, what="metadata", limit=ALL_METADATA_BYTES_MAX)
        await self._daemon.refresh_from(CarriedFiles(brought))
        return web.Response()

    async def manifest(self, request: web.Request) -> web.Response:
        """The manifest of one release."""
        require(request, Role.OPERATOR)
        data = await read_body(request, MANIFEST_BYTES_MAX)
        await self._carrying.take_manifest(request.match_info["manifest"], data)
        return web.Response()

    async def missing(self, request: web.Request) -> web.Response:
        """Which pieces of a release are wanted here."""
        require(request, Role.OPERATOR)
        return web.Response(body=pack(await self._carrying.missing(request.match_info["manifest"])))

    async def piece(self, request: web.Request) -> web.Response:
        """One piece of a release."""
        require(request, Role.OPERATOR)
        manifest, digest = request.match_info["manifest"], piece_of(request)
        # Asked for each portion that comes, as in a fetch.
        stored = await read_body(
            request, PIECE_BYTES_MAX, before_each=lambda: self._carrying.require(manifest)
        )
        await self._carrying.take_piece(manifest, digest, stored)
        return web.Response()

    async def whole(self, request: web.Request) -> web.Response:
        """All that the stick has of a release is here."""
        require(request, Role.OPERATOR)
        self._carrying.look_again(request.match_info["manifest"])
        self._daemon.look_for_releases()
        return web.Response()

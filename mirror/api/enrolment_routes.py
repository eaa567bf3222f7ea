"""Enrolment and renewal at any mirror: the origin answers, others hand up or wait for a stick.

Renewal takes the certificate being renewed, or that of whoever carries the request; forwarded
enrolments take a mirror's. Enrolment itself has a listener of its own (FACTS.md: one port with
optional client certificates leaves every route one forgotten check from open).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from firedoor.errors import TooLarge, Unavailable, Untrusted
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import (
    CERTIFICATE_DER_BYTES_MAX,
    ENROLMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
)
from firedoor.runtime.keys.authority import id_of_request
from firedoor.runtime.keys.tls import certificate_of_peer
from firedoor.runtime.network.first_answer import first_answer
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.network.peer_server import read_body, say_errors
from firedoor.runtime.settings import split_address
from firedoor.units import KIB
from mirror.api.requests import asker, require

# In hex and DER, with a renewal that a mirror passes on: an origin that was restored from a backup
# may not know this machine any more, and its certificate says that it did.
SHOWN = "Firedoor-Certificate"


# A request for a certificate is 300 bytes, and a token as many.
_PASSED_UP_BYTES_MAX = 2 * KIB

# A site's machines renew once in days; a new site enrols a few hundred within minutes.
_PASSED_UP_EVERY_S = 0.2
_WAITING_MAX = 256


class Enroller(Protocol):
    """Who answers both: the origin, a mirror that asks it, or one that waits for a stick."""

    ca: bytes

    async def enrol(self, body: bytes) -> bytes:
        """The answer to one enrolment."""

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        """A new certificate. `shown`: the one that its machine has, in DER, where it was seen."""


class Forwarder:
    """A site's mirror: hands enrolments and renewals up."""

    def __init__(self, client: PeerClient, upstream: tuple[str, ...], ca: bytes) -> None:
        self._client = client
        self._upstream = upstream
        # Orders come by the same line: what anybody can ask for takes a small part of it.
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.ca = ca

    async def enrol(self, body: bytes) -> bytes:
        """The origin's answer; raises as `PeerClient.post`."""
        return await self._post("/v1/enrol", body)

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        """The origin's answer; raises as `PeerClient.post`."""
        del asker  # The origin knows whom it enrolled.
        return await self._post("/v1/renew", body, {SHOWN: shown.hex()} if shown else None)

    async def _post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        if len(body) > _PASSED_UP_BYTES_MAX:
            raise TooLarge("request", limit=_PASSED_UP_BYTES_MAX, size=len(body))
        if self._waiting >= _WAITING_MAX:
            raise Unavailable(
                path, why=f"{_WAITING_MAX} requests wait here already; ask again later"
            )
        self._waiting += 1
        try:
            async with self._turn:
                try:
                    return await self._ask(path, body, headers)
                finally:
                    # What is refused, too: it has taken the same line.
                    await asyncio.sleep(_PASSED_UP_EVERY_S)
        finally:
            self._waiting -= 1

    async def _ask(self, path: str, body: bytes, headers: dict[str, str] | None) -> bytes:
        post, limit = self._client.post, METADATA_BYTES_MAX
        return await first_answer(
            map(split_address, self._upstream),
            lambda at: post(*at, path, body, limit=limit, headers=headers),
            nobody=Unavailable(path, why="no upstream is configured"),
        )


def forward_routes(enroller: Enroller, is_banned: Callable[[PeerId], bool]) -> list[web.RouteDef]:
    """Renewal for every peer, and enrolment in a mirror's name, on the mTLS port."""

    async def renew(request: web.Request) -> web.Response:
        peer = asker(request)
        body = await read_body(request, ENROLMENT_BYTES_MAX)
        meant = id_of_request(body)
        if is_banned(meant):
            raise Untrusted("renewal", wanted="a machine that is not banned", got=meant[:12])
        # For one's own key a certificate that has run out will do. A person may carry another
        # machine's request, as a mirror does; the request proves the machine's own key.
        may_carry = peer.role is Role.MIRROR or (peer.role is Role.OPERATOR and peer.is_current)
        if meant != peer.id and not may_carry:
            raise Untrusted("renewal", wanted="a request for the asker's own key", got="another")
        shown = _shown(request, peer, meant)
        return web.Response(body=await enroller.renew(body, peer, shown))

    async def enrol(request: web.Request) -> web.Response:
        require(request, Role.MIRROR)
        return web.Response(
            body=await enroller.enrol(await read_body(request, ENROLMENT_BYTES_MAX))
        )

    return [web.post("/v1/renew", renew), web.post("/v1/enrol", enrol)]


def _shown(request: web.Request, peer: Peer, meant: PeerId) -> bytes:
    """The certificate of the machine that renews: of this connection, or passed on by a mirror."""
    if meant == peer.id and request.transport is not None:
        return certificate_of_peer(request.transport)
    text = request.headers.get(SHOWN, "") if peer.role is Role.MIRROR else ""
    try:
        return bytes.fromhex(text[: 2 * CERTIFICATE_DER_BYTES_MAX])
    except ValueError:
        return b""  # It is no more than a help; without it the origin goes by whom it knows.


def enrolment_app(enroller: Enroller) -> web.Application:
    """The listener that a machine without a certificate can use, and nothing else."""

    async def ca(_: web.Request) -> web.Response:
        return web.Response(body=enroller.ca, content_type="application/x-pem-file")

    async def enrol(request: web.Request) -> web.Response:
        body = await read_body(request, ENROLMENT_BYTES_MAX)
        return web.Response(body=await enroller.enrol(body), content_type="application/json")

    app = web.Application(middlewares=[say_errors])
    app.add_routes([web.get("/ca.pem", ca), web.post("/enrol", enrol)])
    return app

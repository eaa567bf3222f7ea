"""Products that switch when they are told: at a reboot, or in a window of the site's own.

* Such a release is staged and *armed*: it stays ready as long as a live lease says that no order is
  missing here. When the lease lapses or a halt of level 3 comes, it is disarmed.
* Being armed is kept in memory alone. A machine that loses power comes up with what it ran before,
  and is armed again by a lease of its new life; so no time that it was off is trusted.
* The switch itself takes the same gates as any other activation.

`firedoor-agent switch` tells it, and deploy/systemd/firedoor-switch.service does so at shutdown.
Source: halt/README.md, Gates.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from firedoor.errors import FiredoorError, Malformed, Unavailable, Untrusted
from firedoor.identity import PeerId
from firedoor.runtime.network.peer_server import CLOCK, peer_of_request, read_body

SWITCH_PATH = "/v1/switch"

# The names of a few hundred products.
BODY_BYTES_MAX = 1 << 16

# From the word to the switch; a shutdown does not wait longer for one product.
SWITCH_S = 20.0


class Arming:
    """Whether one product is armed, and who waits for its switch.

    `manifest`: what is armed; empty for nothing.
    """

    def __init__(self) -> None:
        self.manifest = ""
        self._told: asyncio.Future[str] | None = None

    def arm(self, manifest: str) -> None:
        """This release switches when it is told to."""
        self.manifest = manifest

    def disarm(self, why: FiredoorError) -> None:
        """Cancel the armed activation; a waiting `switched` fails with `why`."""
        self.manifest = ""
        if self._told is not None and not self._told.done():
            self._told.set_exception(why)

    @property
    def is_told(self) -> bool:
        """Whether somebody waits for the switch."""
        return self._told is not None and not self._told.done()

    async def switched(self) -> str:
        """The version that was switched to, once it was; whoever stirs the product comes first.

        Raises:
            Unavailable: it is not armed, or was not switched in time.
            FiredoorError: why it was not switched.
        """
        if not self.manifest:
            raise Unavailable("the switch", why="nothing is armed")
        if self.is_told:
            raise Unavailable("the switch", why="it was told already, and is at it")
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._told = told
        try:
            async with asyncio.timeout(SWITCH_S):
                return await told
        except TimeoutError as error:
            raise Unavailable("the switch", why=f"not within {SWITCH_S:.0f} s") from error
        finally:
            # Nobody waits any more: a later lease must not switch by this word.
            told.cancel()

    def done(self, version: str) -> None:
        """It has switched."""
        self.manifest = ""
        if self._told is not None and not self._told.done():
            self._told.set_result(version)


def switch_route(
    me: PeerId, switch: Callable[[frozenset[str]], Awaitable[dict[str, dict[str, str]]]]
) -> web.RouteDef:
    """`/v1/switch`, for this machine itself: POST a JSON list of products; empty means all.

    `switch` answers with what became of each armed one. The handler raises Untrusted where another
    machine asks, and Malformed where the body is no such list.
    """

    async def told(request: web.Request) -> web.Response:
        asker = peer_of_request(request, request.app[CLOCK])
        if asker.id != me:
            raise Untrusted(request.path, wanted="this machine itself", got=f"peer {asker.id[:12]}")
        products = _products(await read_body(request, BODY_BYTES_MAX))
        return web.json_response(await switch(products))

    return web.post(SWITCH_PATH, told)


def _products(body: bytes) -> frozenset[str]:
    try:
        names = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("products", wanted="a JSON list", got=str(error)[:80]) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Malformed("products", wanted="a list of names", got=type(names).__name__)
    return frozenset(names)

"""Which peers a command asks: those that are named, else the origin and those found by mDNS."""

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from firedoor.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from firedoor.runtime.keys.key_files import KeyFile
    from firedoor.runtime.network.peer_client import PeerClient

# After the first mirror of a LAN others have this long.
_MORE_S = 0.3


async def peers_to_try(
    client: "PeerClient", key: "KeyFile", to: list[str], wait_s: float
) -> list[tuple[str, int]]:
    """Whom to ask: the named peers, else those found by mDNS and the key file's origin.

    What mDNS shows counts once `client` has seen its certificate.

    Raises:
        Unavailable: none of them is known.
        Malformed: an address that is none.
    """
    found: list[tuple[str, int]] = []
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(wait_s + _MORE_S) as bound,
            aclosing(peers_as_found(client, key, to, wait_s)) as peers,
        ):
            async for address, is_near in peers:
                found.append(address)
                if is_near:
                    # Others of the site have a moment more: one that answers may be hostile.
                    bound.reschedule(asyncio.get_running_loop().time() + _MORE_S)
    # The key file's origin comes first there and last here: a mirror of the site is nearer.
    return found if to else [*found[1:], *found[:1]] if key.origin else found


async def peers_as_found(
    client: "PeerClient", key: "KeyFile", to: list[str], wait_s: float
) -> "AsyncGenerator[tuple[tuple[str, int], bool], None]":
    """Where to hand an order, as it is found: address, and whether it is a mirror of this LAN.

    The named peers; else the key file's origin at once, and who proves itself by mDNS within
    `wait_s`.

    Raises:
        Unavailable: none of them is known.
        Malformed: an address that is none.
    """
    from firedoor.runtime.settings import split_address  # noqa: PLC0415

    for text in to:
        yield split_address(text), False
    if to:
        return
    known = {split_address(key.origin)} if key.origin else set()
    for address in known:
        yield address, False
    if key.mdns:
        from firedoor.dice import Dice  # noqa: PLC0415
        from firedoor.identity import FleetId, Role  # noqa: PLC0415
        from firedoor.runtime.clocks import Clock  # noqa: PLC0415
        from firedoor.runtime.network.search import Search  # noqa: PLC0415

        search = Search(client, Dice(Clock().seed()))
        # The key may be on another machine than the one whose interfaces it names.
        with suppress(Unavailable):
            async with aclosing(search.find(FleetId(key.fleet), key.mdns, wait_s)) as found:
                async for role, address in found:
                    if address not in known:
                        known.add(address)
                        yield address, role is Role.MIRROR
    if not known:
        raise Unavailable("no peer", why="name one with --to HOST:PORT")

"""Hand a signed order to one peer, and hear how far it has come.

The operator speaks the peers' own protocol: hello, the order, done; then `Recorded` and beacons
come back on the same connection.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from firedoor.cli.common import say
from firedoor.errors import FiredoorError, Refused, Unavailable
from firedoor.halt.order import BeaconPayload, Envelope
from firedoor.identity import Role
from firedoor.limits import FRAME_BYTES_MAX
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.peer_server import Conversation
from firedoor.wire.codec import decode
from firedoor.wire.messages import (
    Beacon,
    Hello,
    Orders,
    OrdersDone,
    Recorded,
    decode_message,
    encode_message,
)


async def hand_over(
    client: PeerClient,
    addresses: list[tuple[str, int]],
    order: tuple[bytes, bytes],
    wait_s: float,
) -> None:
    """Give `order` (id and record) to all of `addresses` at once; say what becomes of it.

    At once, for a dead first address must not cost the seconds that this is about.

    Raises:
        Unavailable: no peer has recorded it within `wait_s`.
    """
    seen: set[str] = set()

    def note(what: str, text: str) -> None:
        if what not in seen:
            seen.add(what)
            say(text)

    hands = [asyncio.ensure_future(_hand(client, each, order, note)) for each in addresses]
    pending = set(hands)
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while pending and "logged" not in seen:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    for hand in pending:
        hand.cancel()
    ends = await asyncio.gather(*hands, return_exceptions=True)
    if not seen:
        whys = [str(end) for end in ends if isinstance(end, FiredoorError)]
        why = "; ".join(whys) or "it may not accept the signature"
        raise Unavailable("the order is signed, but no peer has recorded it", why=why)
    if "logged" not in seen:
        say("not yet logged by the origin: every peer that hears it obeys all the same")


async def _dial(client: PeerClient, host: str, port: int) -> Conversation:
    # A mirror or an endpoint will do; which it is is in its certificate.
    try:
        return (await client.dial(host, port, role=Role.MIRROR))[1]
    except Unavailable:
        return (await client.dial(host, port, role=Role.AGENT))[1]


async def _hand(
    client: PeerClient,
    address: tuple[str, int],
    order: tuple[bytes, bytes],
    note: Callable[[str, str], None],
) -> None:
    socket = await _dial(client, *address)
    try:
        for message in (Hello(bytes(32), 0), Orders((order[1],)), OrdersDone()):
            socket.send(encode_message(message))
        await _hear(socket, order[0], f"{address[0]}:{address[1]}", note)
    finally:
        socket.close()


async def _hear(
    socket: Conversation, order_id: bytes, address: str, note: Callable[[str, str], None]
) -> None:
    named = recorded = False
    async for frame in socket.frames():
        match decode_message(frame):
            case Recorded(ids) if order_id in ids:
                recorded = True
                note("recorded", f"recorded by the first peer, {address}")
            case Beacon(record) if order_id in _named(record):
                named = True
            case _:
                pass
        if named and recorded:
            note("logged", "logged by the origin")
            return


def _named(record: bytes) -> tuple[bytes, ...]:
    # For display: the peer's TLS identity stands for it here; nodes verify the signature itself.
    try:
        envelope = decode(Envelope, record, what="beacon", limit=FRAME_BYTES_MAX)
        return decode(BeaconPayload, envelope.payload, what="beacon", limit=FRAME_BYTES_MAX).ids
    except Refused:
        return ()

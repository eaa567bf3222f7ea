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
    """Give `order` (id and record) to the first peer that takes it; say what becomes of it.

    Raises:
        Unavailable: no peer has recorded it within `wait_s`.
    """
    last: FiredoorError = Unavailable("no peer", why="none is known")
    for host, port in addresses:
        try:
            socket = await _dial(client, host, port)
            await _hand(socket, order, f"{host}:{port}", wait_s)
        except FiredoorError as error:
            last = error
        else:
            return
    raise Unavailable("the order is signed, but no peer has recorded it", why=str(last))


async def _dial(client: PeerClient, host: str, port: int) -> Conversation:
    # A mirror or an endpoint will do; which it is is in its certificate.
    try:
        return (await client.dial(host, port, role=Role.MIRROR))[1]
    except Unavailable:
        return (await client.dial(host, port, role=Role.AGENT))[1]


async def _hand(
    socket: Conversation, order: tuple[bytes, bytes], address: str, wait_s: float
) -> None:
    order_id, record = order
    for message in (Hello(bytes(32), 0), Orders((record,)), OrdersDone()):
        socket.send(encode_message(message))
    seen: set[str] = set()

    def note(what: str, text: str) -> None:
        if what not in seen:
            seen.add(what)
            say(text)

    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await _hear(socket, order_id, address, note)
    socket.close()
    if not seen:
        raise Unavailable(
            address, why="it did not record the order; it may not accept its signature"
        )
    if "logged" not in seen:
        say("not yet logged by the origin: every peer that hears it obeys, but no bound runs yet")


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
            note("logged", "logged by the origin: bound runs from here")
            return


def _named(record: bytes) -> tuple[bytes, ...]:
    # For display: the peer's TLS identity stands for it here; nodes verify the signature itself.
    try:
        envelope = decode(Envelope, record, what="beacon", limit=FRAME_BYTES_MAX)
        return decode(BeaconPayload, envelope.payload, what="beacon", limit=FRAME_BYTES_MAX).ids
    except Refused:
        return ()

"""A conversation of a command that lasts: orders in step, then leases asked for in a site's name.

While it is open the mirror serves pieces to this person too (halt/sync.py: orders before bytes).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from firedoor.errors import FiredoorError, Unavailable
from firedoor.halt.lease import LeasePayload, read_lease
from firedoor.halt.orderset import OrderSet
from firedoor.identity import Role
from firedoor.limits import RECEIPTS_MAX
from firedoor.runtime.catalogue import Catalogue, Get
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.peer_server import Conversation
from firedoor.wire.messages import (
    Beacon,
    Hello,
    LeaseAsked,
    LeaseGiven,
    Message,
    OrderIds,
    OrdersDone,
    Receipts,
    decode_message,
    encode_message,
)

T = TypeVar("T")

# For a mirror whose own line is thin, and whose witness is.
_ANSWER_S = 30.0

# A lease counts an order at once, its beacon comes half a second later.
_LIST_S = 3.0


class Talk:
    """One conversation with a mirror. `beacon`: the latest that it has sent; empty: none yet."""

    def __init__(self, socket: Conversation, where: str) -> None:
        self._socket = socket
        self._where = where
        self._in_step = asyncio.Event()
        self._beacon_came = asyncio.Event()
        self._given: asyncio.Queue[LeaseGiven] = asyncio.Queue()
        self.beacon = b""

    async def begin(self, beacon: bytes) -> None:
        """Exchange hellos; return once the mirror has sent all its orders and taken `beacon`.

        Raises:
            Unavailable: it does not.
        """
        said: list[Message] = [Hello(bytes(32), 0), OrdersDone()]
        said += [Beacon(beacon)] if beacon else []
        for message in (*said, OrderIds(())):
            self._socket.send(encode_message(message))
        await self._within(self._in_step.wait())

    async def lease(self, nonce: bytes, catalogue: Catalogue, get: Get) -> LeaseGiven:
        """The origin's word over `nonce`, with a beacon and metadata here that it goes with.

        Raises:
            Unavailable: no answer in time.
            Refused: it does not verify.
        """
        while True:
            self._beacon_came.clear()
            self._socket.send(encode_message(LeaseAsked(nonce, is_urgent=True)))
            given = await self._within(self._given.get())
            assert catalogue.authority is not None
            said = read_lease(given.record, catalogue.authority)
            if said.snapshot > catalogue.authority.snapshot_version:
                await catalogue.refresh(get)
            if self._lists(said, catalogue):
                return given
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beacon_came.wait(), _LIST_S)

    def hand_up(self, receipts: tuple[bytes, ...]) -> None:
        """What endpoints of another site say of halts."""
        for at in range(0, len(receipts), RECEIPTS_MAX):
            self._socket.send(encode_message(Receipts(receipts[at : at + RECEIPTS_MAX])))

    async def listen(self) -> None:
        """Take in what comes until the conversation ends."""
        async for frame in self._socket.frames():
            match decode_message(frame):
                case OrdersDone():
                    self._in_step.set()
                case Beacon(record):
                    self.beacon = record
                    self._beacon_came.set()
                case LeaseGiven() as given:
                    self._given.put_nowait(given)
                case _:
                    pass

    def _lists(self, said: LeasePayload, catalogue: Catalogue) -> bool:
        """Whether the beacon here lists the orders that a lease is over."""
        orders = OrderSet()
        if self.beacon and catalogue.authority is not None:
            orders.name(self.beacon, catalogue.authority)
        return orders.listed(said.orders) is not None

    async def _within(self, waiting: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wait_for(waiting, _ANSWER_S)
        except TimeoutError as error:
            raise Unavailable(self._where, why=f"no answer within {_ANSWER_S:.0f} s") from error


@asynccontextmanager
async def talking(
    client: PeerClient, address: tuple[str, int], beacon: bytes = b""
) -> AsyncIterator[Talk]:
    """A conversation with a mirror that has taken `beacon`, and whose orders have come.

    Raises:
        Unavailable: it does not answer, or ends too early.
    """
    _, socket = await client.dial(*address, role=Role.MIRROR)
    talk = Talk(socket, f"{address[0]}:{address[1]}")
    listening = asyncio.ensure_future(talk.listen())
    try:
        await talk.begin(beacon)
        yield talk
    finally:
        socket.close()
        with suppress(FiredoorError):
            await listening

"""A conversation of `firedoor carry` with a mirror: its orders, and leases in a site's name.

While it is open the mirror gives this person pieces too (halt/sync.py: orders before bytes).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from firedoor.errors import Stale, Unavailable
from firedoor.halt.lease import Known, check_lease, read_lease
from firedoor.halt.merkle import climb
from firedoor.halt.orderset import OrderSet
from firedoor.identity import Role
from firedoor.limits import ORDERS_MAX, RECEIPTS_MAX
from firedoor.runtime.metadata.catalogue import Catalogue, Get
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.trust.keys import Authority
from firedoor.wire.messages import (
    Beacon,
    Hello,
    LeaseAsked,
    LeaseGiven,
    Message,
    OrderIds,
    Orders,
    OrdersDone,
    Receipts,
    decode_message,
)

T = TypeVar("T")

# For one answer of a mirror whose own line is thin, and whose origin waits for a witness.
_ANSWER_S = 30.0

# A lease counts an order at once, and the beacon that lists it comes later: after this it is asked
# for anew.
_LIST_S = 3.0


class MirrorSession:
    """One conversation. `orders`: all that the mirror holds; `beacon`: its latest, or empty."""

    def __init__(self, socket: Conversation, where: str) -> None:
        self._socket = socket
        self._where = where
        self._in_step = asyncio.Event()
        self._beacon_came = asyncio.Event()
        # One is asked for at a time; what nobody waits for is left out.
        self._given: asyncio.Queue[LeaseGiven] = asyncio.Queue(1)
        self._listening = asyncio.ensure_future(self._listen())
        self.orders: list[bytes] = []
        self.beacon = b""

    async def begin(self, beacon: bytes) -> None:
        """Exchange hellos; return once all orders have come and the mirror has had `beacon`.

        Raises:
            Unavailable: no answer in time, or it hangs up.
            Refused: it sends what is none of the protocol.
        """
        said: list[Message] = [Hello(bytes(32), 0), OrdersDone()]
        said += [Beacon(beacon)] if beacon else []
        for message in (*said, OrderIds(())):
            self._socket.say(message)
        await self._within(self._in_step.wait())

    async def lease(self, nonce: bytes, catalogue: Catalogue, get: Get) -> LeaseGiven:
        """The origin's word over `nonce`, with a beacon and metadata here that it goes with.

        Raises:
            Unavailable: none in time, or the conversation ends.
            Refused: it does not verify.
        """
        return await self._within(self._lease(nonce, catalogue, get))

    def hand_up(self, receipts: tuple[bytes, ...]) -> None:
        """Say what endpoints of another site say of halts."""
        for at in range(0, len(receipts), RECEIPTS_MAX):
            self._socket.say(Receipts(receipts[at : at + RECEIPTS_MAX]))

    async def close(self) -> None:
        """End it; what was sent leaves first."""
        self._socket.close()
        await asyncio.wait({self._listening})
        if not self._listening.cancelled():
            self._listening.exception()  # Whoever waited was told.

    async def _lease(self, nonce: bytes, catalogue: Catalogue, get: Get) -> LeaseGiven:
        while True:
            self._beacon_came.clear()
            self._socket.say(LeaseAsked(nonce, is_urgent=True))
            given = await self._given.get()
            assert catalogue.authority is not None
            said = read_lease(given.record, catalogue.authority)
            if climb(nonce, given.path) != said.nonces:
                continue  # It came late, to what was asked for another site.
            try:
                check_lease(said, self._known(said.orders, catalogue.authority))
            except Stale:
                await catalogue.refresh(get)
            except Unavailable:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._beacon_came.wait(), _LIST_S)
            else:
                return given

    def _known(self, orders: bytes, authority: Authority) -> Known:
        """What a site will know that gets this beacon and metadata; it gets all orders as well."""
        named = OrderSet()
        if self.beacon:
            named.name(self.beacon, authority)
        return Known(authority, named.listed(orders), missed=(), lacking=())

    async def _listen(self) -> None:
        async for frame in self._socket.frames():
            match decode_message(frame):
                case Orders(records):
                    # No node holds more; a mirror that sends on and on sends junk.
                    self.orders += records[: ORDERS_MAX - len(self.orders)]
                case OrdersDone():
                    self._in_step.set()
                case Beacon(record):
                    self.beacon = record
                    self._beacon_came.set()
                case LeaseGiven() as given if self._given.empty():
                    self._given.put_nowait(given)
                case _:
                    pass

    async def _within(self, waiting: Coroutine[Any, Any, T]) -> T:
        """What comes of `waiting`, unless the conversation or the time ends before it."""
        work = asyncio.ensure_future(waiting)
        try:
            both = {work, self._listening}
            done, _ = await asyncio.wait(
                both, timeout=_ANSWER_S, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                return work.result()
            if self._listening in done:
                self._listening.result()
                raise Unavailable(self._where, why="it ended the conversation")
            raise Unavailable(self._where, why=f"no answer within {_ANSWER_S:.0f} s")
        finally:
            work.cancel()


@asynccontextmanager
async def talking(
    client: PeerClient, address: tuple[str, int], beacon: bytes = b""
) -> AsyncIterator[MirrorSession]:
    """A conversation that has begun; raises as `Talk.begin`, or Unavailable: nobody answers."""
    _, socket = await client.dial(*address, role=Role.MIRROR)
    talk = MirrorSession(socket, f"{address[0]}:{address[1]}")
    try:
        await talk.begin(beacon)
        yield talk
    finally:
        await talk.close()

"""Hand a signed order to one peer, and hear how far it has come.

The operator speaks the peers' own protocol: hello, the order, done; then what became of it comes
back on the same connection: obeyed, recorded, committed by the origin; or refused, and why.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from firedoor.cli.client.answers import say
from firedoor.errors import Denied, FiredoorError, Malformed, Unavailable
from firedoor.identity import Role
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.terminal import plain
from firedoor.wire.messages import (
    Hello,
    Logged,
    Message,
    Obeyed,
    OrderIds,
    OrderRefused,
    Orders,
    OrdersDone,
    Recorded,
    decode_message,
)

# An operator at 4 a.m. does not wait longer than this for one command.
_WAIT_S_MAX = 600.0


# When the order is done at one peer the others still have this long: one that answers at once may
# be hostile, and what it says of itself must not take the order from an honest one.
_OTHERS_S = 2.0


# Pauses between tries to reach one peer; where nobody listens a command still ends within seconds.
_DIAL_AGAIN_S = (0.1, 0.2, 0.4, 0.8)

# How often it is looked whether all have answered.
_LOOK_S = 0.02

# Whoever can be handed an order.
ANY_ROLE = (Role.MIRROR, Role.AGENT)

# One order at one peer, its disk included.
_ANSWER_S = 30.0


@dataclass(slots=True)
class Progress:
    """How far an order has come, over all peers that it was handed to."""

    obeyed_by: list[str] = field(default_factory=list)
    recorded_by: list[str] = field(default_factory=list)
    is_committed: bool = False
    until_committed: bool = True

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to hear."""
        return self.is_committed if self.until_committed else bool(self.recorded_by)

    def obeyed(self, address: str) -> None:
        """A peer has closed its brake and passes the order on."""
        self.obeyed_by.append(address)

    def recorded(self, address: str) -> None:
        """A peer has the order on its disk."""
        if not self.recorded_by:
            say(f"recorded by the first peer, {address}")
        self.recorded_by.append(address)

    def committed(self) -> None:
        """Every lease from now on has it."""
        if not self.is_committed:
            say("committed by the origin: the bound of its leases runs from here")
        self.is_committed = True


async def hand_over(
    client: PeerClient,
    peers: AsyncGenerator[tuple[tuple[str, int], bool], None],
    order: tuple[bytes, bytes],
    wait_s: float,
    *,
    until_committed: bool = True,
) -> list[tuple[str, int]]:
    """Give `order` (id and record) to all of `peers` as they are found; to whom it was.

    Says what becomes of it. At once, for neither a dead first address nor a crowd of mDNS's must
    cost the seconds that this is about. `until_committed`: no for what no lease is over, a
    controller's halt.

    Raises:
        Malformed: `wait_s` is no span.
        Denied: every peer that answered refused it.
        Unavailable: no peer has recorded it within `wait_s`, or none is known.
    """
    check_wait(wait_s)
    progress = Progress(until_committed=until_committed)
    hands: dict[asyncio.Task[None], _Hand] = {}

    async def feed() -> None:
        async with aclosing(peers):
            async for address, _ in peers:
                hand = _Hand(address, progress)
                hands[asyncio.ensure_future(hand.give(client, order))] = hand

    feeding = asyncio.ensure_future(feed())
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while not progress.is_done and not all(each.done() for each in (feeding, *hands)):
                await asyncio.sleep(_LOOK_S)
    if progress.is_done:
        with suppress(TimeoutError):
            async with asyncio.timeout(_OTHERS_S):
                for hand in [*hands.values()]:
                    await hand.settled.wait()
    for task in (feeding, *hands):
        task.cancel()
    ends = await asyncio.gather(feeding, *hands, return_exceptions=True)
    if not progress.recorded_by:
        raise _failure(progress, [end for end in ends if isinstance(end, FiredoorError)])
    if not until_committed:
        say("every peer that hears it obeys; no lease waits for it: a person's halt has that bound")
    elif not progress.is_committed:
        say("not yet committed by the origin: every peer that hears it obeys all the same")
    return [hand.address for hand in hands.values()]


async def each_of(
    addresses: list[tuple[str, int]],
) -> AsyncGenerator[tuple[tuple[str, int], bool], None]:
    """These, for `hand_over`."""
    for address in addresses:
        yield address, False


def check_wait(wait_s: float) -> None:
    """Whether somebody can wait so long.

    Raises:
        Malformed: not a number, none at all, or too long.
    """
    if math.isnan(wait_s) or not 0 < wait_s <= _WAIT_S_MAX:
        wanted = f"more than 0 and at most {_WAIT_S_MAX:.0f} seconds"
        raise Malformed("--wait", wanted=wanted, got=str(wait_s))


def _failure(progress: Progress, ends: list[FiredoorError]) -> FiredoorError:
    if progress.obeyed_by:
        why = f"{progress.obeyed_by[0]} obeys it and passes it on; look at that machine's disk"
        return Unavailable("the order is in force, but no peer has recorded it yet", why=why)
    whys = "; ".join(dict.fromkeys(str(end) for end in ends)) or "no answer in time"
    if ends and all(isinstance(end, Denied) for end in ends):
        return Denied(whys)
    what = "the order is signed, but nobody has it: name a peer that you can reach with --to"
    return Unavailable(what, why=whys)


async def collect_orders(
    client: PeerClient, address: tuple[str, int], *, roles: tuple[Role, ...] = ANY_ROLE
) -> list[bytes]:
    """Every order that a peer of one of `roles` offers; none is verified.

    Raises:
        Unavailable: it does not answer, or ends too early.
    """
    records: list[bytes] = []
    opening = (Hello(bytes(32), 0), OrderIds(()))
    async with _talking(client, address, *opening, roles=roles) as socket:
        async for frame in socket.frames():
            match decode_message(frame):
                case Orders(more):
                    records += more
                case OrdersDone():
                    return records
                case _:
                    pass
    raise Unavailable(f"{address[0]}:{address[1]}", why="it ended before all orders had come")


async def give(client: PeerClient, address: tuple[str, int], order: bytes, order_id: bytes) -> None:
    """Hand one order to one peer and wait until it is recorded there.

    Raises:
        Denied: it refuses the order.
        Unavailable: it does not answer, or ends too early.
    """
    opening = (Hello(bytes(32), 0), Orders((order,)), OrdersDone())
    async with _talking(client, address, *opening) as socket:
        async for frame in socket.frames():
            match decode_message(frame):
                case OrderRefused(why):
                    raise Denied(plain(why))
                case Recorded(ids) if order_id in ids:
                    return
                case _:
                    pass
    raise Unavailable(f"{address[0]}:{address[1]}", why="it ended before the order was recorded")


@asynccontextmanager
async def _talking(
    client: PeerClient,
    address: tuple[str, int],
    *opening: Message,
    roles: tuple[Role, ...] = ANY_ROLE,
) -> AsyncIterator[Conversation]:
    """A conversation of at most _ANSWER_S that begins with these messages."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            socket = await _dial(client, *address, roles=roles)
            try:
                for message in opening:
                    socket.say(message)
                yield socket
            finally:
                socket.close()
    except TimeoutError as error:
        why = f"no answer within {_ANSWER_S:.0f} s"
        raise Unavailable(f"{address[0]}:{address[1]}", why=why) from error


async def _dial(
    client: PeerClient, host: str, port: int, roles: tuple[Role, ...] = ANY_ROLE
) -> Conversation:
    # Which role it has is in its certificate.
    for role in roles[:-1]:
        with suppress(Unavailable):
            return (await client.dial(host, port, role=role))[1]
    return (await client.dial(host, port, role=roles[-1]))[1]


class _Hand:
    """One peer that an order is handed to. `settled`: it has recorded it, or it will not."""

    def __init__(self, address: tuple[str, int], progress: Progress) -> None:
        self.address = address
        self._progress = progress
        self.settled = asyncio.Event()

    async def give(self, client: PeerClient, order: tuple[bytes, bytes]) -> None:
        """Hand it over, and hear until there is nothing more to hear."""
        try:
            socket = await self._dialled(client)
            try:
                for message in (Hello(bytes(32), 0), Orders((order[1],)), OrdersDone()):
                    socket.say(message)
                await self._hear(socket, order[0])
            finally:
                socket.close()
        finally:
            self.settled.set()

    async def _dialled(self, client: PeerClient) -> Conversation:
        """A conversation, at last: a port under attack takes some tries."""
        for pause_s in _DIAL_AGAIN_S:
            with suppress(Unavailable):
                return await _dial(client, *self.address)
            await asyncio.sleep(pause_s)
        return await _dial(client, *self.address)

    async def _hear(self, socket: Conversation, order_id: bytes) -> None:
        progress, address = self._progress, f"{self.address[0]}:{self.address[1]}"
        is_committed = recorded = False
        async for frame in socket.frames():
            match decode_message(frame):
                case Obeyed(ids) if order_id in ids:
                    progress.obeyed(address)
                case OrderRefused(why):
                    raise Denied(f"{address}: {plain(why)}")
                case Recorded(ids) if order_id in ids:
                    recorded = True
                    self.settled.set()
                    progress.recorded(address)
                case Logged(ids) if order_id in ids:
                    is_committed = True
                case _:
                    pass
            if is_committed and recorded:
                progress.committed()
            if recorded and progress.is_done:
                return

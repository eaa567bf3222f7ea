"""One mirror in the test's own process: its real host and daemon, with the wire in our hands.

Frames go in and come out as bytes, from whichever peers a test makes up; no socket is opened.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from firedoor.dice import Dice
from firedoor.errors import Refused
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.node.settings import NodeSettings
from firedoor.runtime.clocks import Clock
from firedoor.runtime.host.host import Host, HostParts
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.discovery import Discovery
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.storage.order_log import OrderLog
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.wire.messages import Beat, Health, Hello, Report, decode_message, encode_message
from firedoor.wire.versions import SPOKEN
from mirror.daemon import MirrorDaemon
from mirror.telemetry.claims import Judge
from mirror.telemetry.receipts import ReceiptCollector
from mirror.telemetry.reports import Endpoints
from tests.unit.origin_bench import Bench

DEADLINE_S = 20.0

# Nobody listens there.
NOWHERE = "127.0.0.1:1"

ABOVE = Peer(PeerId("a" * 32), Role.MIRROR, "headquarters")


class Wire:
    """What one peer sends and is sent; in place of a `Conversation`."""

    speaks = SPOKEN
    is_idle = True

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closing = False
        self._coming: asyncio.Queue[bytes | None] = asyncio.Queue()

    def socket_below(self) -> None:
        return None

    def send(self, frame: bytes, *, is_bulk: bool = False) -> bool:
        self.sent.append(frame)
        return not self.is_closing

    def close(self) -> None:
        self.is_closing = True
        self._coming.put_nowait(None)

    def bring(self, frame: bytes) -> None:
        """The peer says this."""
        self._coming.put_nowait(frame)

    async def frames(self) -> AsyncIterator[bytes]:
        while (frame := await self._coming.get()) is not None:
            yield frame

    def reports(self) -> list[Report]:
        """Every report that was sent in a frame that an honest peer takes."""
        found: list[Report] = []
        for frame in self.sent:
            with suppress(Refused):
                message = decode_message(frame)
                found += message.reports if isinstance(message, Health) else ()
        return found


class Unseen:
    """In place of mDNS: nobody looks."""

    async def say_orders(self, digest: bytes) -> None:
        pass


class OneMirror:
    """A mirror of a bench's fleet; `above` is what its upstream sends and is sent."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        root = (bench.fleet / "root.json").read_bytes()
        key = read_key_file(bench.fleet / "origin" / "identity.key", str)
        clock, fleet = Clock(), fleet_of(root)
        state = folder / "state"
        self._bench = bench
        self.host = Host(
            NodeSettings(PeerId("b" * 32), Role.MIRROR, "branch", 7443),
            HostParts(
                clock=clock,
                client=PeerClient(credentials_of(key), clock, Budget(0)),
                catalogue=Catalogue(state / "metadata", root=root, fleet=fleet, clock=clock),
                store=PieceStore(state / "pieces"),
                order_log=OrderLog(state / "orders.log"),
            ),
        )
        self._endpoints = Endpoints(
            folder / "mirror.sqlite", Judge(FleetId(fleet), credentials_of(key).ca, None)
        )
        self._collector = ReceiptCollector(folder / "receipts.sqlite", FleetId(fleet))
        self._daemon = MirrorDaemon(
            self.host,
            upstream=(NOWHERE,),
            origin=None,
            signer=lambda: None,
            renewal=None,
            endpoints=self._endpoints,
            collector=self._collector,
            dice=Dice(clock.seed()),
        )
        self._talks: set[asyncio.Task[None]] = set()
        self.above = Wire()

    def run(self, story: Callable[["OneMirror"], Coroutine[Any, Any, None]]) -> None:
        """Live while `story` goes on, with an upstream above."""
        asyncio.run(self._live(story))

    def meet(self, peer: Peer, wire: Wire) -> None:
        """Begin a conversation that this peer, or for an upstream the mirror, has dialled."""
        is_above = peer == ABOVE
        talk = self.host.connections.converse(
            peer,
            host="127.0.0.1",
            port=1,
            socket=cast("Conversation", wire),
            is_mine=is_above,
            is_upstream=is_above,
        )
        task = asyncio.ensure_future(talk)
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, while the upstream shows that it lives."""
        while not holds():  # a wire has no event to wait for
            self.above.bring(encode_message(Beat()))
            await asyncio.sleep(0.1)

    async def _live(self, story: Callable[["OneMirror"], Coroutine[Any, Any, None]]) -> None:
        await self.host.catalogue.refresh(self._bench.origin.get)
        try:
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                life = group.create_task(self._daemon.run(cast("Discovery", Unseen())))
                await self.host.trusted.wait()
                self.meet(ABOVE, self.above)
                # It holds the same orders, so nothing is undelivered between the two.
                hello = Hello(self.host.node.orders.digest(), 1)
                self.above.bring(encode_message(hello))
                await story(self)
                life.cancel()
        finally:
            for talk in [*self._talks]:
                talk.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)
            await self.host.client.close()
            self._endpoints.close()
            self._collector.close()
            self.host.log.close()

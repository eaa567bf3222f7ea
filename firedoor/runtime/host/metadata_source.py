"""Small files (metadata, manifests) from connected peers; the content verifies itself."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from firedoor.errors import Absent, FiredoorError, Unavailable
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import METADATA_BYTES_MAX, STRANGERS_DIALLED_MAX
from firedoor.runtime.host.connections import Connections
from firedoor.runtime.host.contract import Driver
from firedoor.runtime.host.sources import Sources
from firedoor.runtime.network.first_answer import first_answer
from firedoor.runtime.network.peer_client import CONNECT_S, PeerClient
from firedoor.units import Instant

# Peers that are asked in turn for one small file.
SOURCES_MAX = 3

# All small files of one refresh come within it from a mirror of the site; beyond it others do.
_SLOW_S = 3.0


class Getter:
    """A `Get` of metadata/catalogue.py over this node's connections; `first` is asked first.

    Sources are mirrors that settings, site or LAN make one, and endpoints where there is none. They
    are asked in turn (sources.py). That one of them does not have a metadata file is an answer: a
    peer that never answers must not be asked for it next. One that is right but slow, file after
    file, is no better than one that fails.
    """

    def __init__(
        self,
        driver: Driver,
        client: PeerClient,
        connections: Connections,
        sources: Sources,
        *,
        first: PeerId | None,
    ) -> None:
        self._driver = driver
        self._client = client
        self._connections = connections
        self._sources = sources
        self._first = first
        self._spent: dict[PeerId, float] = {}

    async def __call__(self, path: str, limit: int) -> bytes:
        """The body at `path`; raises Unavailable or Refused."""
        is_metadata = path.startswith("/v1/metadata")
        bound = min(limit, METADATA_BYTES_MAX) if is_metadata else limit
        last = Unavailable(path, why="no mirror and no peer is connected")
        for source in self._able()[:SOURCES_MAX]:
            began = self._driver.clock.now()
            try:
                address, port = self._connections.address_of(source)
                data = await self._client.get(address, port, path, expect=source, limit=bound)
            except Absent as error:
                self._sources.answered(source)
                last = error
                if is_metadata:
                    break
            except Unavailable as error:
                self._sources.failed(source, self._driver.clock.now())
                last = error
            else:
                self._judge(source, began)
                return data
        raise last

    def _judge(self, source: PeerId, began: Instant) -> None:
        now = self._driver.clock.now()
        self._spent[source] = self._spent.get(source, 0.0) + (now - began)
        if self._spent[source] > _SLOW_S:
            self._sources.failed(source, now)
        else:
            self._sources.answered(source)

    def _able(self) -> list[PeerId]:
        connected = [*self._connections.open.values()]
        able = [connection.peer.id for connection in connected if connection.is_upstream]
        if self._driver.settings.role is Role.AGENT:
            able = able or [
                connection.peer.id for connection in connected if connection.peer.role is Role.AGENT
            ]
        return self._sources.in_turn(able, self._first, self._driver.clock.now())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer of a role listens, says somebody. `span_s`: how long it has to prove itself."""

    host: str
    port: int
    role: Role
    span_s: float = CONNECT_S


class FirstContact:
    """A `Get` from peers whose ids are not known yet; their role is in the name that TLS verifies.

    Before the first sync there are no keys to check orders with, so no conversation either:
    metadata, which proves itself, comes first.
    """

    def __init__(self, client: PeerClient, places: list[Place]) -> None:
        self._client = client
        self._places = places

    async def __call__(self, path: str, limit: int) -> bytes:
        """The body at `path`; raises Unavailable or Refused."""
        get = self._client.get
        return await first_answer(
            self._places,
            lambda each: get(each.host, each.port, path, role=each.role, limit=limit),
            nobody=Unavailable(path, why="no mirror is known"),
        )


async def answering(client: PeerClient, places: Iterable[Place]) -> AsyncIterator[Place]:
    """Those of `places` where TLS proves a peer of the role, as they answer, each peer once.

    So many are tried at once, in their order; who hangs costs the others nothing but its turn.
    """
    seen: set[PeerId] = set()
    waiting = iter(places)
    trying: dict[asyncio.Task[Peer], Place] = {}
    try:
        while True:
            for place in islice(waiting, STRANGERS_DIALLED_MAX - len(trying)):
                proof = client.prove(place.host, place.port, place.role, span_s=place.span_s)
                trying[asyncio.ensure_future(proof)] = place
            if not trying:
                return
            done, _ = await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place = trying.pop(task)
                with suppress(FiredoorError):
                    peer = task.result()
                    if peer.id not in seen:
                        seen.add(peer.id)
                        yield place
    finally:
        for task in trying:
            task.cancel()
        await asyncio.gather(*trying, return_exceptions=True)

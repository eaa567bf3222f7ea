"""Carries out the swarm's fetches: a run of pieces from one peer, verified, into the store.

It chooses nothing and retries nothing: how a fetch ended goes back to the swarm, which does. Bytes
that still arrive after the brake has closed are counted here, at the receiver.
"""

import asyncio
from dataclasses import dataclass, field

from firedoor.effects import Fetch
from firedoor.errors import Halted, NoRoom, Refused, Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.identity import PeerId, Role
from firedoor.limits import GATE_BYTES, RETRY_SPAN
from firedoor.runtime.host.connections import Connections
from firedoor.runtime.host.contract import Driver
from firedoor.runtime.logs import log
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.storage.contract import PieceStorage


@dataclass(slots=True)
class Counters:
    """Bytes that moved, and what still arrived of releases after their brake had closed."""

    received: dict[str, int] = field(
        default_factory=lambda: {"mirror": 0, "peer": 0, "upstream": 0}
    )
    sent: int = 0
    covered_bytes: int = 0
    covered_last_at: float = 0.0


class Fetching:
    """The fetches under way of one host. `no_room`: why a release's fetch was given up."""

    def __init__(
        self, driver: Driver, client: PeerClient, connections: Connections, store: PieceStorage
    ) -> None:
        self._driver = driver
        self._client = client
        self._connections = connections
        self._store = store
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.counters = Counters()
        self.no_room: dict[str, str] = {}

    def start(self, fetch: Fetch) -> None:
        """Begin; its end is told to the swarm."""
        self._tasks[fetch.number] = self._driver.start(self._fetch(fetch))

    def cancel(self, number: int) -> None:
        """Give one up; what it had stored stays."""
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()

    async def _fetch(self, fetch: Fetch) -> None:
        node, number, now = self._driver.node, fetch.number, self._driver.clock.now
        try:
            await self._fetch_pieces(fetch)
        except NoRoom as error:
            self.give_up(fetch.manifest, error)
        except (Untrusted, Halted, Unavailable, Refused) as error:
            lie = isinstance(error, Untrusted)
            log("fetch-failed", level="debug", peer=fetch.peer, why=str(error))
            self._driver.apply(node.failed(number, now(), is_lie=lie, retry_after=RETRY_SPAN))
        else:
            self._driver.apply(node.finished(number, now()))
        finally:
            self._tasks.pop(number, None)

    def give_up(self, manifest: str, error: NoRoom) -> None:
        """This machine cannot keep a release: it fetches it no longer and lets go of its pieces."""
        driver = self._driver
        log("no-room", level="error", manifest=manifest[:12], why=str(error), do="free disk space")
        self.no_room[manifest] = str(error)
        is_whole = driver.node.is_whole(manifest)
        # Half a release that blocks the disk would keep out orders and all other releases.
        pieces = frozenset() if is_whole else driver.node.pieces_of_none_but(manifest)
        driver.apply(driver.node.forget_pieces(manifest, driver.clock.now()))
        driver.start(asyncio.to_thread(self._store.remove_all, pieces))
        driver.program.on_no_room(manifest)

    async def _fetch_pieces(self, fetch: Fetch) -> None:
        node, manifest = self._driver.node, fetch.manifest
        pieces = node.pieces_of(manifest)
        start, end = pieces.range_of(fetch.first, fetch.last)
        wanted = [(pieces.digests[at], pieces.sizes[at]) for at in range(fetch.first, fetch.last)]
        address, port = self._connections.address_of(fetch.peer)
        kind = self._kind_of(fetch.peer)
        arriving = self._client.fetch_range(
            address,
            port,
            expect=fetch.peer,
            manifest=manifest,
            pieces=wanted,
            start=start,
            end=end,
            on_bytes=lambda count: self._received(manifest, kind, count),
        )
        fresh: list[int] = []
        size = 0
        async for index, stored in arriving:
            if not node.permits(Gate.FETCH, manifest):
                raise Halted(manifest[:12], level=Gate.FETCH)
            await asyncio.to_thread(self._store.put, wanted[index][0], stored)
            fresh.append(fetch.first + index)
            size += len(stored)
            if size >= GATE_BYTES:
                self._arrived(fetch, fresh)
                fresh, size = [], 0
        self._arrived(fetch, fresh)

    def _arrived(self, fetch: Fetch, fresh: list[int]) -> None:
        if fresh:
            node, now = self._driver.node, self._driver.clock.now()
            self._driver.apply(node.fetched(fetch.number, fetch.manifest, tuple(fresh), now))

    def _kind_of(self, peer: PeerId) -> str:
        connection = self._connections.open.get(peer)
        if connection is None or connection.peer.role is not Role.MIRROR:
            return "peer"
        return "upstream" if self._driver.settings.role is Role.MIRROR else "mirror"

    def _received(self, manifest: str, kind: str, count: int) -> None:
        node = self._driver.node
        self.counters.received[kind] += count
        if node.is_halted(Gate.FETCH, manifest):
            self.counters.covered_bytes += count
            self.counters.covered_last_at = self._driver.clock.now()

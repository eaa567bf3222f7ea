"""Small files from peers: whoever has them will do, for what they bring proves itself."""

from typing import TYPE_CHECKING

from firedoor.errors import Unavailable
from firedoor.identity import PeerId, Role
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.runtime.peer_client import PeerClient

if TYPE_CHECKING:
    from firedoor.runtime.host import Host

# Peers that are asked in turn for one small file.
SOURCES_MAX = 3


class Getter:
    """A `Get` of catalogue.py over this host's connections: mirrors, or peers where there is none.

    What it brings proves itself, so whoever has it will do.
    """

    def __init__(self, host: "Host", source: PeerId | None) -> None:
        self._host = host
        self._source = source

    async def __call__(self, path: str, limit: int) -> bytes:
        """The body at `path`; raises Unavailable or Refused."""
        peers = [line.peer for line in self._host.lines.open.values()]
        able = [peer.id for peer in peers if peer.role is Role.MIRROR]
        able = able or [peer.id for peer in peers if peer.role is Role.AGENT]
        sources = sorted(able, key=lambda peer: peer != self._source)
        bound = min(limit, METADATA_BYTES_MAX) if path.startswith("/v1/metadata") else limit
        last = Unavailable(path, why="no mirror and no peer is connected")
        for source in sources[:SOURCES_MAX]:
            try:
                address, port = self._host.lines.address_of(source)
                return await self._host.client.get(address, port, path, expect=source, limit=bound)
            except Unavailable as error:
                last = error
        raise last


class FirstContact:
    """A `Get` from peers whose ids are not known yet; their role is in the name that TLS verifies.

    Before the first sync there are no keys to check orders with, so no conversation either:
    metadata, which proves itself, comes first.
    """

    def __init__(self, client: PeerClient, addresses: list[tuple[str, int, Role]]) -> None:
        self._client = client
        self._addresses = addresses

    async def __call__(self, path: str, limit: int) -> bytes:
        """The body at `path`; raises Unavailable or Refused."""
        last = Unavailable(path, why="no mirror is known")
        for host, port, role in self._addresses:
            try:
                return await self._client.get(host, port, path, role=role, limit=limit)
            except Unavailable as error:
                last = error
        raise last

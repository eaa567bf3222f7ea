"""Whoever has one publisher's key file, and publishes what no command of ours would.

An origin that refuses has held it off: so it is said, and raises nothing.
"""

import datetime as dt
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3
from tuf.api.metadata import Metadata, Targets

from firedoor.cli.client.origin import Origin, origin_of, verified
from firedoor.cli.client.requests import with_client
from firedoor.errors import FiredoorError
from firedoor.identity import FleetId
from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.manifest import FileEntry, Manifest, content_digest, encode_manifest, facts_of
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.trust.repository import add_release
from firedoor.wire.codec import pack

T = TypeVar("T")


def deep(levels: int) -> Any:
    """Lists in lists, so many of them."""
    found: Any = 0
    for _ in range(levels):
        found = [found]
    return found


def with_row(
    current: bytes, manifest: Manifest, *, expires_s: int, **custom: Any
) -> Metadata[Targets]:
    """The next of a publisher's list, unsigned, with one more release; `custom`: of its row."""
    listed = Metadata[Targets].from_bytes(current)
    path = f"releases/{manifest.product}/{manifest.version}"
    facts = asdict(facts_of(manifest)) | custom
    expires = dt.datetime.fromtimestamp(int(time.time()) + expires_s, dt.UTC)
    add_release(listed, path, encode_manifest(manifest), custom=facts, expires=expires)
    return listed


@dataclass(frozen=True)
class Thief:
    """A publisher's key, a line to the origin, and the publisher's list that is current."""

    key: KeyFile
    current: bytes
    _origin: Origin

    async def bring(self, product: str, version: str) -> Manifest:
        """Upload a release of one small file; what would be published as its manifest."""
        raw = f"hostile {version}".encode()
        piece, stored = pack_piece(raw)
        files = (FileEntry("file", 0o644, len(raw), blake3(raw).digest(), (piece,)),)
        counter = 1 + len(Metadata[Targets].from_bytes(self.current).signed.targets)
        publisher = self.key.role.removeprefix("releases/")
        await self._origin.post("/v1/publish/missing", pack([piece.digest]))
        await self._origin.post("/v1/publish/piece", stored, {"X-Piece": piece.digest.hex()})
        content = content_digest(files)
        return Manifest(product, version, counter, publisher, "files", files, content)

    async def hand_in(self, metadata: bytes, manifest: Manifest) -> bool:
        """Whether the origin has taken this list."""
        data = encode_manifest(manifest)
        body = pack({"role": self.key.role, "metadata": metadata, "manifest": data})
        try:
            await self._origin.post("/v1/publish/release", body)
        except FiredoorError:
            return False
        return True


def as_thief(key_file: Path, work: Callable[[Thief], Awaitable[T]]) -> T:
    """Run `work` with what a publisher's key file alone opens."""
    key = read_key_file(key_file, str)

    async def begin(client: PeerClient) -> T:
        origin = Origin(client, origin_of(key))
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            current = catalogue.role_file(key.role)
        return await work(Thief(key, current, origin))

    return with_client(key, begin)

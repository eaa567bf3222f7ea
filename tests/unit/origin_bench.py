"""An origin on a fleet of its own, in folders of a test: no process and no network."""

import asyncio
import datetime as dt
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.manifest import FileEntry, Manifest, content_digest, encode_manifest, facts_of
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.metadata.trust_client import TrustClient, fleet_of
from firedoor.runtime.storage.contract import PieceStorage
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.trust.keys import register
from firedoor.trust.repository import add_release, signed_by
from firedoor.units import UnixTime
from mirror.origin.origin import Origin, Published

ROLE = "releases/main"
# python-tuf's client compares dates with the real clock, so the fleet is made now.
NOW = UnixTime(int(dt.datetime.now(dt.UTC).timestamp()))
COUNTS = {
    "root": (1, 1),
    ROLE: (1, 1),
    "halt": (1, 1),
    "resume": (2, 2),
    "promote": (2, 2),
    "beacon": (1, 1),
}


class PowerCutError(BaseException):
    """The machine is off. Nothing but a test's outermost loop catches it."""


@dataclass
class Bench:
    """One origin on a fleet of its own, with a clock that tests set."""

    fleet: Path
    state: Path
    store: PieceStore
    origin: Origin
    now: UnixTime = NOW

    def releases(self) -> Metadata[Targets]:
        """The publisher's list that is current."""
        folder = self.fleet / "origin" / "metadata"
        timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
        version = timestamp.signed.snapshot_meta.version
        snapshot = Metadata[Snapshot].from_file(str(folder / f"{version}.snapshot.json"))
        version = snapshot.signed.meta[f"{ROLE}.json"].version
        return Metadata[Targets].from_file(str(folder / f"{version}.releases%2Fmain.json"))

    def seed(self, name: str = "releases-main-1") -> bytes:
        """The signing seed of an offline key."""
        return read_key_file(self.fleet / "keys" / f"{name}.key", str).signing_seed

    def publish(self, manifest: Manifest, **changes: Any) -> Published:
        """Sign and hand in one release as a publisher would, with some `changes`."""
        data = encode_manifest(manifest)
        metadata = self.metadata(manifest, data, **changes)
        return self.origin.accept_release(changes.get("role", ROLE), metadata, data)

    def metadata(self, manifest: Manifest, data: bytes, **changes: Any) -> bytes:
        """The publisher's next list."""
        releases = self.releases()
        path = changes.get("path", f"releases/{manifest.product}/{manifest.version}")
        custom = facts(manifest) | changes.get("custom", {})
        days = changes.get("days", 30)
        moment = dt.datetime.fromtimestamp(self.now + days * 86400, dt.UTC)
        add_release(releases, path, data, custom=custom, expires=moment)
        releases.signed.version += changes.get("versions", 0)
        return signed_by(releases, [changes.get("seed", self.seed())]).to_bytes()

    def client(self, folder: Path) -> TrustClient:
        """An endpoint's view of the repository."""
        root = (self.fleet / "root.json").read_bytes()

        def fetch(name: str, limit: int) -> bytes:
            return asyncio.run(self.origin.get(f"/v1/metadata/{name}", limit))

        return TrustClient(folder, fleet_of(root), fetch, root)


def release(store: PieceStorage | None, version: str = "1.0", raw: bytes = b"content") -> Manifest:
    """A release of one file; its piece goes to `store`, if there is one."""
    piece, stored = pack_piece(raw)
    if store is not None:
        store.put(piece.digest, stored)
    files = (FileEntry("file", 0o644, len(raw), blake3(raw).digest(), (piece,)),)
    return Manifest("app", version, 1, "main", "files", files, content_digest(files))


def facts(manifest: Manifest) -> dict[str, object]:
    """What signed metadata says of a release beside its digest."""
    return asdict(facts_of(manifest))


def opened(fleet: Path, folder: Path) -> Bench:
    """An origin on a copy of a fleet."""
    register()
    shutil.copytree(fleet, folder / "fleet")
    (folder / "state").mkdir()
    return reopened(folder)


def reopened(folder: Path) -> Bench:
    """An origin on what another left in `folder`."""
    fleet, state = folder / "fleet", folder / "state"
    store = PieceStore(state / "pieces")
    made = Bench(fleet, state, store, None)  # type: ignore[arg-type]  # set on the next line
    made.origin = Origin(
        fleet / "origin", state, store=store, passphrase=str, unix=lambda: made.now
    )
    return made

"""Releases that are small where they are signed and large where they are used."""

import datetime as dt
import struct
from dataclasses import asdict
from pathlib import Path

from blake3 import blake3
from tuf.api.metadata import Metadata, Targets

from firedoor.errors import FiredoorError
from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.manifest import FileEntry, Manifest, content_digest, encode_manifest, facts_of
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.trust.keys import register
from firedoor.trust.repository import add_release, signed_by
from firedoor.wire.codec import pack
from tests.attacks.burdens import client_of, post
from tests.live.lab import MIB, LabSite

PRODUCT = "app"
PIECE_RAW = 4 * MIB
ZEROS, STORED_ZEROS = pack_piece(bytes(PIECE_RAW))

_LIST = "releases%2Fmain.json"


def many_files(count: int) -> tuple[Manifest, bytes]:
    """A manifest of so many empty files, without them, and its bytes, with them."""
    nothing = blake3(b"").digest()
    hasher, files = blake3(), []
    tail = struct.pack(">IQB", 0o644, 0, 0) + nothing
    for number in range(count):
        path = f"f/{number:06d}"
        files.append({"path": path, "mode": 0o644, "size": 0, "digest": nothing})
        hasher.update(struct.pack(">I", len(path)) + path.encode() + tail)
    bare = Manifest(PRODUCT, "1.0", 1, "main", "files", (), hasher.digest())
    return bare, pack(asdict(bare) | {"files": files})


def zeros(pieces: int) -> tuple[Manifest, bytes]:
    """A release of one file, all zeros: one stored piece that is used so many times."""
    # Its digest is of no account: no disk holds the file.
    file = FileEntry("zeros", 0o644, pieces * PIECE_RAW, bytes(32), (ZEROS,) * pieces)
    manifest = Manifest(PRODUCT, "1.0", 1, "main", "files", (file,), content_digest((file,)))
    return manifest, encode_manifest(manifest)


async def publish(site: LabSite, bomb: tuple[Manifest, bytes], *pieces: bytes) -> bool:
    """Publish the fleet's first release as a thief of its key would; whether it is taken."""
    key_path = site.fleet / "keys" / "releases-main-1.key"
    manifest, data = bomb
    async with client_of(key_path) as client:
        digests = [blake3(piece).digest() for piece in pieces]
        metadata = signed_list(site.fleet, key_path, manifest, data)
        body = pack({"role": "releases/main", "metadata": metadata, "manifest": data})
        try:
            await post(client, site, "/v1/publish/missing", pack(digests))
            for digest, piece in zip(digests, pieces, strict=True):
                await post(client, site, "/v1/publish/piece", piece, digest.hex())
            await post(client, site, "/v1/publish/release", body)
        except FiredoorError as error:
            print(f"not taken: {error}")
            return False
    return True


def signed_list(fleet: Path, key_path: Path, manifest: Manifest, data: bytes) -> bytes:
    """The publisher's second list."""
    register()
    folder = fleet / "origin" / "metadata"
    releases = Metadata[Targets].from_file(str(folder / f"1.{_LIST}"))
    expires = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=30)
    path, custom = f"releases/{PRODUCT}/{manifest.version}", asdict(facts_of(manifest))
    add_release(releases, path, data, custom=custom, expires=expires)
    return signed_by(releases, [read_key_file(key_path, str).signing_seed]).to_bytes()

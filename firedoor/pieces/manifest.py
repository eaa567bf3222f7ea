"""A release as signed: every file with its digest and pieces, how to install it, how to check it.

* Paths are relative, plain and unique even where case or Unicode form does not count, so that one
  tree means the same on every system; nothing leaves the tree, not through a link either.
* The content digest covers paths, modes, sizes and file digests; neither product nor version, so
  that the same bytes are the same release under any name (pieces/README.md).

It does not fetch, cut or write anything.
"""

import struct
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated

from blake3 import blake3
from msgspec import Meta

from firedoor.errors import Malformed, TooLarge
from firedoor.identity import checked_name
from firedoor.limits import (
    FILES_MAX,
    PATH_BYTES_MAX,
    PIECE_BYTES_MAX,
    PIECES_MAX,
)
from firedoor.pieces.manifest_reading import LARGE, Bound, read_fields
from firedoor.wire.codec import encode, record

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Size = Annotated[int, Meta(ge=0, le=2**50)]
PieceSize = Annotated[int, Meta(ge=1, le=PIECE_BYTES_MAX)]
PublicKey = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Text = Annotated[str, Meta(max_length=1024)]

# Checks and validators a release may bring; more is a script's work.
_CHECKS_MAX = 16

# Folders in folders. A deep node_modules reaches 40; without a bound one manifest of long paths
# would name gigabytes of folders.
_DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """The unit of transfer. `digest`: BLAKE3 of the `stored` bytes; `raw`: their size unpacked."""

    digest: Digest
    stored: PieceSize
    raw: PieceSize
    is_packed: bool


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, or one symbolic link (`link` is its target; it has no pieces)."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_BYTES_MAX)]
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    size: Size
    digest: Digest
    pieces: tuple[Piece, ...] = ()
    link: Annotated[str, Meta(max_length=PATH_BYTES_MAX)] = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """Reserved: how to make one file from an older one (pieces/README.md, Patches)."""

    old: Digest
    new: Digest
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One release. `counter` orders the releases of a product, signed by its publisher.

    `floor`: the lowest counter that an endpoint may step back to from then on; `controller`: the
    public key, in hex, that may halt this very release; empty for none.
    """

    product: Text
    version: Text
    counter: Annotated[int, Meta(ge=1, le=2**53)]
    publisher: Text
    handler: Text
    files: Annotated[tuple[FileEntry, ...], Meta(max_length=FILES_MAX)]
    content: Digest
    checks: Annotated[tuple[Text, ...], Meta(max_length=_CHECKS_MAX)] = ()
    is_critical_fix: bool = False
    patches: Annotated[tuple[Patch, ...], Meta(max_length=FILES_MAX)] = ()
    floor: Annotated[int, Meta(ge=0, le=2**53)] = 0
    controller: PublicKey = ""
    format: Annotated[int, Meta(ge=1, le=1)] = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a publisher's signed list says of a release beside its manifest's digest.

    `content`: in hex, for lists are JSON.
    """

    counter: Annotated[int, Meta(ge=1, le=2**53)]
    content: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    handler: Text
    critical_fix: bool
    floor: Annotated[int, Meta(ge=0, le=2**53)] = 0
    controller: PublicKey = ""


def facts_of(manifest: Manifest) -> Facts:
    """The facts that must stand in the list beside this manifest."""
    return Facts(
        manifest.counter,
        manifest.content.hex(),
        manifest.handler,
        manifest.is_critical_fix,
        manifest.floor,
        manifest.controller,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes that become a TUF target."""
    return encode(manifest)


def decode_manifest(data: bytes, bound: Bound = LARGE) -> Manifest:
    """The manifest in `data`, with every rule of this file checked.

    Raises:
        TooLarge: above `bound`, or above PIECES_MAX.
        Malformed: anything else that is wrong with it.
    """
    fields, files = read_fields(data, bound, FileEntry, name="files")
    bare = record(Manifest, fields | {"files": []}, what="manifest")
    manifest = replace(bare, files=files)
    for what, name in (
        ("manifest's product", manifest.product),
        ("manifest's version", manifest.version),
        ("manifest's publisher", manifest.publisher),
        ("manifest's handler", manifest.handler),
    ):
        checked_name(what, name)
    check_tree(manifest.files)
    content = content_digest(manifest.files)
    if content != manifest.content:
        wanted, got = manifest.content.hex()[:12], content.hex()[:12]
        raise Malformed("manifest's content digest", wanted=wanted, got=got)
    return manifest


def manifest_id(data: bytes) -> str:
    """The SHA-256 of a manifest's bytes in hex: its TUF target hash, and its name everywhere."""
    return sha256(data).hexdigest()


def content_digest(files: Iterable[FileEntry]) -> bytes:
    """BLAKE3 over the sorted (path, mode, size, file digest) of a tree."""
    hasher = blake3()
    for file in sorted(files, key=_path):
        path = file.path.encode()
        # Lengths before variable parts, so that no two trees encode alike.
        hasher.update(struct.pack(">I", len(path)) + path)
        hasher.update(struct.pack(">IQB", file.mode, file.size, bool(file.link)) + file.digest)
    return hasher.digest()


def check_tree(files: Sequence[FileEntry]) -> None:
    """Whether these files may be one tree.

    Raises:
        Malformed: an unsafe or ambiguous path, a link that leaves, sizes that do not add up.
        TooLarge: more than PIECES_MAX pieces.
    """
    folded: dict[str, str] = {}
    links: set[str] = set()
    stored: dict[bytes, int] = {}
    pieces = 0
    for file in files:
        check_path(file.path)
        name = fold(file.path)
        if name in folded:
            other = folded[name]
            raise Malformed("path", wanted=f"a name apart from {other!r}", got=repr(file.path))
        folded[name] = file.path
        if file.link:
            links.add(name)
        pieces += len(file.pieces)
        _check_sizes(file, stored)
    if pieces > PIECES_MAX:
        raise TooLarge("pieces of a release", limit=PIECES_MAX, size=pieces)
    folders: dict[str, str] = {}
    for file in files:
        for parent in _parents(file.path):
            if fold(parent) in folded:
                raise Malformed("path", wanted=f"{parent!r} to be a folder", got=repr(file.path))
            if folders.setdefault(fold(parent), parent) != parent:
                raise Malformed("path", wanted="one spelling of a folder", got=repr(parent))
        if file.link:
            _check_link(file, links)


def check_path(path: str) -> None:
    """Whether `path` is relative, plain and means the same everywhere.

    Raises:
        Malformed: it is not.
    """
    parts = path.split("/")
    is_plain = all(part not in {"", ".", ".."} for part in parts) and len(parts) <= _DEPTH_MAX
    has_odd = any(ord(char) < 32 or char in '\\:*?"<>|\x7f' for char in path)  # noqa: PLR2004
    has_edge = any(part != part.rstrip(" .") for part in parts)
    if not is_plain or has_odd or has_edge or len(path.encode()) > PATH_BYTES_MAX:
        raise Malformed("path", wanted="a relative path plain on every system", got=repr(path[:80]))


def fold(path: str) -> str:
    """`path` as a file system sees it that ignores case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_sizes(file: FileEntry, stored: dict[bytes, int]) -> None:
    """Whether sizes add up; `stored` gathers every piece's, which is one wherever it occurs."""
    if file.link:
        target = file.link.encode()
        if file.pieces:
            raise Malformed(file.path, wanted="a link without pieces", got="pieces")
        # The content digest holds a link's target only through this.
        if (file.size, file.digest) != (len(target), blake3(target).digest()):
            raise Malformed(file.path, wanted="the digest of the link's target", got="another")
        return
    total = sum(piece.raw for piece in file.pieces)
    if total != file.size:
        raise Malformed(file.path, wanted=f"pieces of {file.size} bytes", got=str(total))
    if any(not piece.is_packed and piece.raw != piece.stored for piece in file.pieces):
        raise Malformed(file.path, wanted="plain pieces of one size", got="two sizes")
    for piece in file.pieces:
        if stored.setdefault(piece.digest, piece.stored) != piece.stored:
            raise Malformed(file.path, wanted="one stored size of a piece", got="two")


def _check_link(file: FileEntry, links: set[str]) -> None:
    parts = file.path.split("/")[:-1]
    for part in file.link.split("/"):
        if part == "..":
            if not parts:
                raise Malformed(file.path, wanted="a link inside the tree", got=repr(file.link))
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
        # A link through another link could leave the tree where no text shows it.
        if fold("/".join(parts)) in links:
            raise Malformed(file.path, wanted="a link past no other link", got=repr(file.link))
    if file.link.startswith("/") or "\\" in file.link or ":" in file.link or "\0" in file.link:
        raise Malformed(file.path, wanted="a relative link", got=repr(file.link))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _path(file: FileEntry) -> str:
    return file.path

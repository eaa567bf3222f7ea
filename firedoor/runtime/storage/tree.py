"""A release's tree of files: read at the publisher, written at the endpoint.

Reading refuses what cannot mean the same everywhere. Writing builds a fresh folder that nothing
points at yet, asks before each 64 KiB whether it may go on, and leaves nothing half-made.

An empty folder is no part of a release. On Windows a link needs a privilege; without it a release
that has links is `Unavailable` there (untested).
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from firedoor.errors import Malformed, Unavailable, Untrusted
from firedoor.limits import GATE_BYTES
from firedoor.pieces.chunking import pack_piece, piece_bytes, unpack_piece
from firedoor.pieces.manifest import FileEntry, Manifest, Piece, check_tree
from firedoor.runtime.files import sync_folder

# A payload may run as another user than the agent, whatever the agent's umask is.
FOLDER_MODE = 0o755

Sink = Callable[[Piece, bytes], None]


def read_tree(root: Path, sink: Sink) -> tuple[FileEntry, ...]:
    """Cut a folder, or one file, into pieces; each stored piece goes to `sink`.

    Raises:
        Malformed: a device, socket or pipe, a name or link that a release cannot hold.
        Unavailable: something cannot be read.
    """
    if not root.exists():
        raise Unavailable(str(root), why="no such file or folder")
    base = root if root.is_dir() else root.parent
    try:
        paths = sorted(_walk(root)) if root.is_dir() else [root]
        files = tuple(_read_entry(path, path.relative_to(base).as_posix(), sink) for path in paths)
    except OSError as error:
        raise Unavailable(
            str(error.filename or root), why=error.strerror or "unreadable"
        ) from error
    if not files:
        raise Malformed(str(root), wanted="at least one file", got="none")
    check_tree(files)
    return files


def write_tree(
    manifest: Manifest,
    store_get: Callable[[bytes], bytes | None],
    *,
    old: Mapping[bytes, Path],
    target: Path,
    may_go_on: Callable[[], None],
) -> None:
    """Build the release in `target`, which must not exist, durably.

    `old`: files of other versions by their digest, copied instead of unpacked where they still
    have it. `may_go_on` is called before each file and each 64 KiB and raises to stop.

    Raises:
        Unavailable: a piece is missing, or the disk is full.
        Untrusted: a file does not have its digest.
        Halted: `may_go_on` says so. In every case `target` is gone again.
        ValueError: `target` exists; it is left as it is.
    """
    if os.path.lexists(target):
        raise ValueError(f"write_tree: {target} exists")
    try:
        target.mkdir(parents=True)
        target.chmod(FOLDER_MODE)
        for file in manifest.files:
            may_go_on()
            _write_entry(file, target / file.path, store_get, old=old, may_go_on=may_go_on)
        for folder, _, _ in os.walk(target):
            sync_folder(Path(folder))
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise Unavailable(f"writing {target}", why=error.strerror or str(error)) from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=False, onerror=_fail):
        for name in [*names, *(each for each in folders if (Path(folder) / each).is_symlink())]:
            yield Path(folder) / name


def _fail(error: OSError) -> None:
    # os.walk leaves out what it cannot read; a release must not lack it unsaid.
    raise error


def _read_entry(path: Path, name: str, sink: Sink) -> FileEntry:
    _check_text(name)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        link = path.readlink().as_posix()
        _check_text(link)
        return FileEntry(name, 0o777, len(link.encode()), blake3(link.encode()).digest(), (), link)
    if not stat.S_ISREG(found.st_mode):
        raise Malformed(str(path), wanted="a file, folder or link", got="a device, socket or pipe")
    hasher = blake3()
    pieces: list[Piece] = []
    size = 0
    with path.open("rb") as file:
        while raw := file.read(piece_bytes(found.st_size)):
            hasher.update(raw)
            size += len(raw)
            piece, stored = pack_piece(raw)
            sink(piece, stored)
            pieces.append(piece)
    # Only the bit that matters everywhere; owners and the rest are the endpoint's own.
    mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
    return FileEntry(name, mode, size, hasher.digest(), tuple(pieces))


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Malformed(repr(name), wanted="a name in UTF-8", got="other bytes") from error


def _write_entry(
    file: FileEntry,
    path: Path,
    store_get: Callable[[bytes], bytes | None],
    *,
    old: Mapping[bytes, Path],
    may_go_on: Callable[[], None],
) -> None:
    _make_folders(path.parent)
    if file.link:
        path.symlink_to(file.link)
        return
    with path.open("xb") as output:
        found = b""
        source = old.get(file.digest)
        if source is not None and source.is_file() and not source.is_symlink():
            found = _fill(output, _old_bytes(source, file.size), may_go_on)
        if found != file.digest:
            output.seek(0)
            output.truncate()
            found = _fill(output, _unpacked(file, store_get), may_go_on)
        output.flush()
        # Before the sync, so that the mode is as durable as the bytes.
        if hasattr(os, "fchmod"):
            os.fchmod(output.fileno(), file.mode)
        os.fsync(output.fileno())
    if found != file.digest:
        raise Untrusted(file.path, wanted=file.digest.hex()[:12], got=found.hex()[:12])


def _make_folders(folder: Path) -> None:
    """Make a folder of the tree and those above it that are missing, each with FOLDER_MODE."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir()
        each.chmod(FOLDER_MODE)


def _fill(output: BinaryIO, parts: Iterator[bytes], may_go_on: Callable[[], None]) -> bytes:
    """Write `parts` and return the digest of what was written."""
    hasher = blake3()
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), GATE_BYTES):
            may_go_on()
            step = view[start : start + GATE_BYTES]
            hasher.update(step)
            output.write(step)
    return hasher.digest()


def _old_bytes(source: Path, size: int) -> Iterator[bytes]:
    """An older file in steps. One that changed or cannot be read misses its digest."""
    with suppress(OSError), source.open("rb") as file:
        # One byte past the end at least, so that a file that has grown shows it.
        for _ in range(0, size + 1, GATE_BYTES):
            yield file.read(GATE_BYTES)


def _unpacked(file: FileEntry, store_get: Callable[[bytes], bytes | None]) -> Iterator[bytes]:
    for piece in file.pieces:
        stored = store_get(piece.digest)
        if stored is None:
            raise Unavailable(file.path, why=f"piece {piece.digest.hex()[:12]} is not here")
        yield unpack_piece(piece, stored)

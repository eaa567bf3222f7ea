"""Stored pieces in a folder, each under its digest.

A piece is verified before it is written, and each time it is read: a power cut may leave a file
short, and disks rot. Nobody gets an unverified byte, and nobody is called a liar for a bad disk.
The folder may be a stranger's (a stick), so no link in it is followed and no other file is touched.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from firedoor.errors import FiredoorError, Malformed, NoRoom, Unavailable, Untrusted
from firedoor.limits import PIECE_BYTES_MAX
from firedoor.runtime.files import OWN_MODE
from firedoor.runtime.folders import Folder, below, open_folder
from firedoor.units import KIB

_SHELF = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")

_DIGEST_BYTES = 32

# zstd makes what does not compress a little larger; such a piece is stored plain (chunking.py), so
# this is room to spare.
_STORED_BYTES_MAX = PIECE_BYTES_MAX + 64 * KIB


class PieceStore:
    """One folder of pieces; blocking, so callers use a thread.

    `mode`: of new files; `is_foreign`: anybody may have made the folder, so it may be no link.
    """

    def __init__(self, folder: Path, *, mode: int = OWN_MODE, is_foreign: bool = False) -> None:
        """Open it, or make it.

        Raises:
            Unavailable: it cannot be.
        """
        self._path = folder
        self._mode = mode
        self._verified: set[bytes] = set()
        self._lock = threading.Lock()
        try:
            self._folder = _opened(folder, is_foreign=is_foreign)
            for shelf in [*self._folder.names(_SHELF)]:
                # What is no folder of ours is somebody else's, and stays.
                with suppress(OSError), below(self._folder, shelf) as opened:
                    if opened is not None:
                        opened.remove_halves()
        except OSError as error:
            raise Unavailable(str(folder), why=error.strerror or str(error)) from error

    def put(self, digest: bytes, stored: bytes) -> None:
        """Keep one piece.

        Raises:
            Untrusted: the bytes have another digest; nothing is written.
            NoRoom: the disk is full or fails; nothing half-written is left.
        """
        found = blake3(stored).digest()
        if found != digest:
            raise Untrusted("piece", wanted=digest.hex()[:12], got=found.hex()[:12])
        shelf, rest = _names(digest)
        try:
            with below(self._folder, shelf, is_made=True) as opened:
                assert opened is not None
                opened.write(rest, stored, self._mode, is_durable=False)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            why = "the disk is full" if full else str(error)
            raise NoRoom(f"keeping a piece in {self._path}", why=why) from error
        with self._lock:
            self._verified.add(digest)

    def make_sure_of_room(self, size: int) -> None:
        """Nothing, if `size` more bytes can be kept.

        Raises:
            NoRoom: they cannot; better known before the line is used for them than after.
        """
        free = self.free()
        if size > free:
            why = f"the disk is full: {size:,} bytes are wanted, {free:,} are free"
            raise NoRoom(f"keeping a release in {self._path}", why=why)

    def free(self) -> int:
        """The bytes that the disk has left."""
        return shutil.disk_usage(self._path).free

    def sync(self, digests: Sequence[bytes]) -> None:
        """Make these pieces durable, before something signed says that they are here.

        Raises:
            Unavailable: one is gone, or the disk refuses.
        """
        try:
            self._sync(digests)
        except OSError as error:
            raise Unavailable(str(self._path), why=error.strerror or str(error)) from error

    def _sync(self, digests: Sequence[bytes]) -> None:
        shelves: dict[str, list[str]] = {}
        for digest in digests:
            shelf, rest = _names(digest)
            shelves.setdefault(shelf, []).append(rest)
        for shelf, names in shelves.items():
            with below(self._folder, shelf) as opened:
                if opened is None:
                    raise Unavailable(str(self._path / shelf), why="it is gone")
                for name in names:
                    opened.sync_file(name)
                opened.sync()

    def get(self, digest: bytes) -> bytes | None:
        """One piece, or None when it is not here whole; a damaged one is removed."""
        shelf, rest = _names(digest)
        try:
            with below(self._folder, shelf) as opened:
                stored = opened.read(rest, _STORED_BYTES_MAX) if opened is not None else None
        except (OSError, FiredoorError):
            stored = b""  # A link, a pipe or a device in its place, or a disk that fails.
        if stored is None:
            return None
        if blake3(stored).digest() != digest:
            self.remove(digest)
            return None
        with self._lock:
            self._verified.add(digest)
        return stored

    def has(self, digest: bytes) -> bool:
        """Whether the piece is here whole."""
        return digest in self._verified or self.get(digest) is not None

    def adopt(self, other: "PieceStore", digest: bytes) -> None:
        """Move one piece here from another store of the same disk.

        Raises:
            Unavailable: it is not there, or the disk refuses.
        """
        shelf, rest = _names(digest)
        try:
            with (
                below(other._folder, shelf) as source,  # noqa: SLF001  # of its own kind
                below(self._folder, shelf, is_made=True) as target,
            ):
                if source is None or target is None:
                    raise Unavailable(str(self._path), why=f"piece {rest[:12]} is gone")
                target.take_from(source, rest)
        except OSError as error:
            raise Unavailable(str(self._path), why=error.strerror or str(error)) from error

    def remove_all(self, digests: Iterable[bytes]) -> None:
        """Forget several pieces."""
        for digest in digests:
            self.remove(digest)

    def remove(self, digest: bytes) -> None:
        """Forget one piece."""
        with self._lock:
            self._verified.discard(digest)
        shelf, rest = _names(digest)
        self._remove(shelf, rest)

    def keep_only(self, digests: Collection[str]) -> int:
        """Forget all other pieces, by digest in hex; how many that were.

        What has no name of a piece is somebody else's and stays.
        """
        removed = 0
        for shelf in [*self._folder.names(_SHELF)]:
            with below(self._folder, shelf) as opened:
                rests = [*opened.names(_REST)] if opened is not None else []
            for rest in rests:
                if f"{shelf}{rest}" not in digests:
                    self.remove(bytes.fromhex(f"{shelf}{rest}"))
                    removed += 1
        return removed

    def _remove(self, shelf: str, rest: str) -> None:
        try:
            with below(self._folder, shelf) as opened:
                if opened is not None:
                    opened.remove(rest)
        except OSError as error:
            raise Unavailable(str(self._path), why=error.strerror or os.strerror(0)) from error


def _opened(folder: Path, *, is_foreign: bool) -> Folder:
    if not is_foreign:
        return open_folder(folder, is_made=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open_folder(folder.parent) as parent:
        made = parent.folder(folder.name, is_made=True)
    assert made is not None
    return made


def _names(digest: bytes) -> tuple[str, str]:
    if len(digest) != _DIGEST_BYTES:
        wanted = f"a digest of {_DIGEST_BYTES} bytes"
        raise Malformed("piece", wanted=wanted, got=f"{len(digest)} bytes")
    name = digest.hex()
    return name[:2], name[2:]

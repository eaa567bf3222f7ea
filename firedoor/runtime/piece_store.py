"""Stored pieces in a folder, each under its digest.

A piece is verified before it is written, and each time it is read: a power cut may leave a file
short, and disks rot. Nobody gets an unverified byte, and nobody is called a liar for a bad disk.
"""

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from blake3 import blake3

from firedoor.errors import NoRoom, Untrusted
from firedoor.runtime.files import sync_folder


class PieceStore:
    """One folder of pieces; blocking, so callers use a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: set[bytes] = set()
        self._number = 0
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*/.new-*"):
            left_over.unlink(missing_ok=True)

    def put(self, digest: bytes, stored: bytes) -> None:
        """Keep one piece.

        Raises:
            Untrusted: the bytes have another digest; nothing is written.
            NoRoom: the disk is full or fails; nothing half-written is left.
        """
        found = blake3(stored).digest()
        if found != digest:
            raise Untrusted("piece", wanted=digest.hex()[:12], got=found.hex()[:12])
        path = self._path(digest)
        with self._lock:
            self._number += 1
            temporary = path.parent / f".new-{os.getpid()}-{self._number}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(stored)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            why = "the disk is full" if full else str(error)
            raise NoRoom(f"keeping a piece in {self._folder}", why=why) from error
        self._verified.add(digest)

    def make_sure_of_room(self, size: int) -> None:
        """Nothing, if `size` more bytes can be kept.

        Raises:
            NoRoom: they cannot; better known before the line is used for them than after.
        """
        free = shutil.disk_usage(self._folder).free
        if size > free:
            why = f"the disk is full: {size:,} bytes are wanted, {free:,} are free"
            raise NoRoom(f"keeping a release in {self._folder}", why=why)

    def sync(self, digests: Sequence[bytes]) -> None:
        """Make these pieces durable, before something signed says that they are here."""
        for digest in digests:
            descriptor = os.open(self._path(digest), os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for folder in {self._path(digest).parent for digest in digests}:
            sync_folder(folder)

    def get(self, digest: bytes) -> bytes | None:
        """One piece, or None when it is not here whole; a damaged one is removed."""
        path = self._path(digest)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            return None
        if blake3(stored).digest() != digest:
            self.remove(digest)
            return None
        self._verified.add(digest)
        return stored

    def has(self, digest: bytes) -> bool:
        """Whether the piece is here whole."""
        return digest in self._verified or self.get(digest) is not None

    def remove_all(self, digests: Iterable[bytes]) -> None:
        """Forget several pieces."""
        for digest in digests:
            self.remove(digest)

    def remove(self, digest: bytes) -> None:
        """Forget one piece."""
        self._verified.discard(digest)
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name[2:]

"""How the boot guard reads files: those of trusted owners that nobody else can write.

Standard library alone, as all of the guard.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.guard.records import DoubtError

# Whatever is read whole.
_FILE_BYTES_MAX = 64 << 20

# An order log is read frame by frame, and may be as long as the agent lets it grow.
_LOG_BYTES_MAX = 1 << 30

# So much of a log is in memory at one time, or one record.
_BLOCK_BYTES = 1 << 20


class Files:
    """Reads files that only `owners` can have written.

    A file is opened without following a link and without waiting, and it is the open file that is
    looked at: nobody can put another in its place in between.
    """

    def __init__(self, owners: frozenset[int]) -> None:
        self._owners = owners

    def check(self, path: Path) -> None:
        """Nothing, if this file or folder is of a trusted owner and nobody else can write it.

        Raises:
            DoubtError: it is not, or it is neither a file nor a folder.
        """
        self._check(path, path.lstat())

    def read(self, path: Path, limit: int = _FILE_BYTES_MAX) -> bytes:
        """The content of a trusted file; empty when there is none.

        Raises:
            DoubtError: it is not trusted, no regular file, or above `limit` bytes.
        """
        with self._opened(path) as descriptor:
            return b"" if descriptor is None else _read_at_most(descriptor, path, limit)

    @contextmanager
    def blocks(self, path: Path) -> "Iterator[Blocks]":
        """A trusted file, to be read here and there; empty when there is none; raises as `read`."""
        with self._opened(path) as descriptor:
            size = os.fstat(descriptor).st_size if descriptor is not None else 0
            if size > _LOG_BYTES_MAX:
                raise DoubtError(f"{path} is above {_LOG_BYTES_MAX} bytes")
            yield Blocks(descriptor, size)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int | None]:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise DoubtError(f"{path}: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
            self._check(path, found)
            if not stat.S_ISREG(found.st_mode):
                raise DoubtError(f"{path} is no regular file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _check(self, path: Path, found: os.stat_result) -> None:
        if stat.S_ISLNK(found.st_mode):
            raise DoubtError(f"{path} is a link")
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise DoubtError(f"{path} is neither a file nor a folder")
        if os.name == "posix" and found.st_uid not in self._owners:
            raise DoubtError(f"{path} belongs to user {found.st_uid}")
        if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DoubtError(f"{path} can be written by others")


class Blocks:
    """The bytes of an open file, a block at a time; `size`: how many there were when it opened."""

    def __init__(self, descriptor: int | None, size: int) -> None:
        self._descriptor = descriptor
        self._at, self._block = 0, b""
        self.size = size

    def read(self, at: int, count: int) -> bytes:
        """So many bytes from `at`, or those that there are."""
        if not self._at <= at or at + count > self._at + len(self._block):
            self._at, self._block = at, self._read(at, max(count, _BLOCK_BYTES))
        return self._block[at - self._at : at - self._at + count]

    def _read(self, at: int, count: int) -> bytes:
        if self._descriptor is None:
            return b""
        os.lseek(self._descriptor, at, os.SEEK_SET)
        parts: list[bytes] = []
        while count > 0 and (part := os.read(self._descriptor, count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _read_at_most(descriptor: int, path: Path, limit: int) -> bytes:
    parts = []
    size = 0
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise DoubtError(f"{path} is above {limit} bytes")
    return b"".join(parts)

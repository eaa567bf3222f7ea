"""How the boot guard reads files: those of trusted owners that nobody else can write.

Standard library alone, as all of the guard.
"""

import os
import stat
from pathlib import Path

from agent.guard_records import DoubtError

# The order log, the largest that it reads.
_FILE_BYTES_MAX = 64 << 20


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
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DoubtError(f"{path}: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
            self._check(path, found)
            if not stat.S_ISREG(found.st_mode):
                raise DoubtError(f"{path} is no regular file")
            return _read_at_most(descriptor, path, limit)
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


def _read_at_most(descriptor: int, path: Path, limit: int) -> bytes:
    parts = []
    size = 0
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise DoubtError(f"{path} is above {limit} bytes")
    return b"".join(parts)

"""Files and folders that somebody else may have made: read bounded, regular, without waiting.

* A `Folder` is opened once; what is in it is reached from that descriptor, one name at a time, and
  no link is followed on the way. So nobody can lead a read, a write or a deletion elsewhere, before
  or meanwhile.
* A file is opened without waiting for it (a pipe has no end), is looked at through its descriptor,
  and is read only if it is a regular file of at most the bound.
* A new file gets a name of its own, which must be free, and takes the place of the old one.
* Only what has the wanted name is removed, and no folder ever.

Windows has no such descriptors; there the same is done by path, with links refused (untested).
"""

import errno
import os
import re
import secrets
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from re import Pattern

from firedoor.errors import Malformed, TooLarge, Unavailable

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)

_HAS_DESCRIPTORS = sys.platform != "win32"

# A name that this file, or the one of version 0.1, gave to something that is not whole yet.
_HALF = re.compile(r"\.new-(?:[0-9a-f]{16}|[0-9]+-[0-9]+)")

# Names that are looked at in one folder: a folder without end must not take memory without end.
NAMES_MAX = 1 << 20

# A person may hand over a secret through a pipe, `--passphrase-file <(command)`, and the command
# may ask that person for something.
_PIPE_SPAN_S = 10.0

_STEP_BYTES = 1 << 16


def read_named(path: Path, limit: int) -> bytes:
    """The file that a person has named: regular, or a pipe to which somebody writes.

    Raises:
        Unavailable: it cannot be read, or nothing comes through the pipe.
        Malformed: it is something else.
        TooLarge: it has more than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY)
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                return _read_pipe(descriptor, str(path), limit)
            return read_descriptor(descriptor, str(path), limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or "cannot be read") from error


def read_regular(path: Path, limit: int) -> bytes:
    """The file at `path`, which is no link, whole.

    Raises:
        FileNotFoundError: there is none.
        Unavailable, Malformed, TooLarge: as `read_named`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | _NO_LINK | _BINARY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(str(path), why=_why(error)) from error
    try:
        return read_descriptor(descriptor, str(path), limit)
    except OSError as error:
        raise Unavailable(str(path), why=_why(error)) from error
    finally:
        os.close(descriptor)


def require_regular(path: Path) -> None:
    """Nothing, if a regular file or nothing at all is at `path`: for what a library opens by name.

    Raises:
        Malformed: it is a link, pipe, device, socket or folder.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            wanted, got = "a regular file", "a link, pipe, device, socket or folder"
            raise Malformed(str(path), wanted=wanted, got=got)


def read_descriptor(descriptor: int, what: str, limit: int) -> bytes:
    """All of an open file, if it is a regular one of at most `limit` bytes.

    Raises:
        Malformed: it is a pipe, device, socket or folder.
        TooLarge: it has more; no more than `limit` is read.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise Malformed(what, wanted="a regular file", got="a pipe, device, socket or folder")
    if found.st_size > limit:
        raise TooLarge(what, limit=limit, size=found.st_size)
    parts: list[bytes] = []
    size = 0
    while part := os.read(descriptor, min(_STEP_BYTES * 16, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        # It may grow while it is read.
        if size > limit:
            raise TooLarge(what, limit=limit, size=size)
    return b"".join(parts)


class Folder:
    """An open folder. Names are single: no separator, not `.` or `..`."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int | None) -> None:
        """As `open_folder` and `folder` make it."""
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Folder":
        """Itself; closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def read(self, name: str, limit: int) -> bytes | None:
        """A regular file of at most `limit` bytes; None: there is none of this name.

        Raises:
            Unavailable, Malformed, TooLarge: as `read_named`; a link is Unavailable.
        """
        try:
            descriptor = self._open(name, os.O_RDONLY | _NO_WAIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(str(self.path / name), why=_why(error)) from error
        try:
            return read_descriptor(descriptor, str(self.path / name), limit)
        except OSError as error:
            raise Unavailable(str(self.path / name), why=_why(error)) from error
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes, mode: int = 0o600, *, is_durable: bool = True) -> None:
        """Put `data` there, whole or not at all; what had the name before is replaced, not written.

        Raises:
            OSError: the disk refuses; nothing half-written is left.
        """
        fresh = f".new-{secrets.token_hex(8)}"
        descriptor = self._open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                # A stick's file system has no modes.
                with suppress(OSError, AttributeError):
                    os.fchmod(descriptor, mode)
                if is_durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._replace(fresh, name)
        except BaseException:
            with suppress(OSError):
                self._unlink(fresh)
            raise
        if is_durable:
            self.sync()

    def take_from(self, other: "Folder", name: str) -> None:
        """Move a file of this name here from another folder of the same disk.

        Raises:
            OSError: it is not there, or the disk refuses.
        """
        _check(name)
        source, target = other._descriptor, self._descriptor  # noqa: SLF001  # of its own kind
        if source is not None and target is not None:
            os.replace(name, name, src_dir_fd=source, dst_dir_fd=target)
        else:
            (other.path / name).replace(self.path / name)

    def names(self, pattern: Pattern[str]) -> Iterator[str]:
        """The names here that match, in no order; at most NAMES_MAX are looked at.

        Raises:
            OSError: it cannot be listed.
        """
        where = self._descriptor if self._descriptor is not None else self.path
        with os.scandir(where) as entries:
            for number, entry in enumerate(entries):
                if number >= NAMES_MAX:
                    return
                if pattern.fullmatch(entry.name):
                    yield entry.name

    def is_empty(self) -> bool:
        """Whether nothing lies here."""
        return next(self.names(re.compile(".*", re.DOTALL)), None) is None

    def remove(self, name: str) -> None:
        """Remove a file or link of this name; none there is no error, and no folder is removed.

        Raises:
            OSError: it cannot be removed.
        """
        with suppress(FileNotFoundError, IsADirectoryError):
            try:
                self._unlink(name)
            except PermissionError:
                # What some systems say of a folder.
                if not self._is_folder(name):
                    raise

    def _is_folder(self, name: str) -> bool:
        try:
            found = self.folder(name)
        except OSError:
            return False
        if found is not None:
            found.close()
        return found is not None

    def remove_halves(self) -> None:
        """Remove what an earlier run of ours has left half-written."""
        for name in [*self.names(_HALF)]:
            self.remove(name)

    def folder(self, name: str, *, is_made: bool = False, mode: int = 0o755) -> "Folder | None":
        """The folder of this name, made if it `is_made`; None: there is none.

        Raises:
            OSError: it is a link or no folder, or cannot be made.
        """
        if is_made:
            with suppress(FileExistsError):
                self._mkdir(name, mode)
        try:
            descriptor = self._open(name, os.O_RDONLY | _FOLDER)
        except FileNotFoundError:
            return None
        return Folder(self.path / name, descriptor if _HAS_DESCRIPTORS else None)

    def sync(self) -> None:
        """Make what was put here and taken away durable."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def sync_file(self, name: str) -> None:
        """Make the content of one file durable.

        Raises:
            OSError: it cannot be.
        """
        descriptor = self._open(name, os.O_RDWR | _NO_WAIT)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- by descriptor, and on Windows by path ---------------------------------------------------

    def _open(self, name: str, flags: int, mode: int = 0o600) -> int:
        _check(name)
        if self._descriptor is not None:
            return os.open(name, flags | _NO_LINK | _BINARY, mode, dir_fd=self._descriptor)
        path = self.path / name
        if path.is_symlink():
            raise OSError(f"{path} is a link")
        if flags & os.O_CREAT == 0 and path.is_dir():
            return -1
        return os.open(path, flags | _BINARY, mode)

    def _replace(self, fresh: str, name: str) -> None:
        _check(name)
        if self._descriptor is not None:
            os.replace(fresh, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        else:
            (self.path / fresh).replace(self.path / name)

    def _unlink(self, name: str) -> None:
        _check(name)
        if self._descriptor is not None:
            os.unlink(name, dir_fd=self._descriptor)
        else:
            (self.path / name).unlink()

    def _mkdir(self, name: str, mode: int) -> None:
        _check(name)
        if self._descriptor is not None:
            os.mkdir(name, mode, dir_fd=self._descriptor)
        else:
            (self.path / name).mkdir(mode)


def open_folder(path: Path, *, is_made: bool = False, mode: int = 0o755) -> Folder:
    """The folder that a person or the settings have named, whatever leads to it.

    Raises:
        OSError: it is none, or cannot be made.
    """
    if is_made:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    if not _HAS_DESCRIPTORS:
        return Folder(path, None)
    return Folder(path, os.open(path, os.O_RDONLY | _FOLDER))


@contextmanager
def below(folder: Folder, *names: str, is_made: bool = False) -> Iterator[Folder | None]:
    """The folder that these names lead to, one after another; None: it is not there."""
    opened: list[Folder] = []
    try:
        found: Folder | None = folder
        for name in names:
            found = found.folder(name, is_made=is_made) if found is not None else None
            if found is not None:
                opened.append(found)
        yield found
    finally:
        for each in opened:
            each.close()


def _read_pipe(descriptor: int, what: str, limit: int) -> bytes:
    until = time.monotonic() + _PIPE_SPAN_S
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not readable:
            raise Unavailable(what, why=f"a pipe through which nothing came in {_PIPE_SPAN_S:g} s")
        part = os.read(descriptor, min(_STEP_BYTES, limit + 1 - size))
        if not part:
            if not parts:
                raise Unavailable(what, why="a pipe to which nobody writes")
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise TooLarge(what, limit=limit, size=size)


def _check(name: str) -> None:
    if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"folder: wanted a single name, got {name[:80]!r}")


def _why(error: OSError) -> str:
    # What O_NOFOLLOW answers to a link reads as a puzzle: "Too many levels of symbolic links".
    if error.errno in {errno.ELOOP, errno.ENOTDIR} and sys.platform != "win32":
        return "it is a link, or a link or file stands on the way to it"
    return error.strerror or str(error)

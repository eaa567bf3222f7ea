"""Files that are whole or not there at all, whatever happens in between."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from firedoor.errors import Unavailable


def durable_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` so that a crash leaves the old content or the new, durably.

    Raises:
        Unavailable: the disk is full or refuses.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                Path(name).chmod(mode)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or str(error)) from error


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable. Windows has no such call; NTFS journals them itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

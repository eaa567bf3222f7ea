"""Files that are whole or not there at all, whatever happens in between."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from firedoor.errors import Unavailable

OWN_MODE = 0o600
"""Of what a program keeps for itself, whatever its umask is."""

PUBLIC_MODE = 0o644
"""Of what a person hands on, or a payload reads."""


def durable_write(path: Path, data: bytes, mode: int = OWN_MODE) -> None:
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
                _set_mode(file.fileno(), Path(name), mode)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or str(error)) from error


def _set_mode(descriptor: int, path: Path, mode: int) -> None:
    # By the open file: a name in a folder of somebody else may lead elsewhere by now.
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)
    else:
        path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable. Windows has no such call; NTFS journals them itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

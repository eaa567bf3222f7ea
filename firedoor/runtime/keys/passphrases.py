"""Passphrases in files: one line, whatever ends it."""

from pathlib import Path

from firedoor.errors import Malformed
from firedoor.runtime.folders import read_named

# Nobody types more, and no password manager makes it.
_PASSPHRASE_BYTES_MAX = 4096


def read_passphrase(path: Path) -> str:
    """The passphrase in a file.

    Raises:
        Unavailable, TooLarge: it cannot be read.
        Malformed: it is no text.
    """
    try:
        return read_named(path, _PASSPHRASE_BYTES_MAX).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise Malformed(str(path), wanted="a passphrase in UTF-8", got="other bytes") from error

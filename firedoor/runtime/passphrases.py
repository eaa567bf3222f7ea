"""Passphrases in files: one line, whatever ends it."""

from pathlib import Path

from firedoor.errors import Malformed, Unavailable


def read_passphrase(path: Path) -> str:
    """The passphrase in a file.

    Raises:
        Unavailable: it cannot be read.
        Malformed: it is no text.
    """
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise Malformed(str(path), wanted="a passphrase in UTF-8", got="other bytes") from error

"""Keys and passphrases as a person gives them: a file, the keyboard, or typed digits."""

import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from firedoor.errors import Malformed, Unavailable
from firedoor.runtime.keys.passphrases import read_passphrase

if TYPE_CHECKING:
    from firedoor.runtime.keys.key_files import KeyFile


def passphrase_of(path: Path | None, what: str = "") -> Callable[[], str]:
    """Where a passphrase comes from when one is needed: a file, or the person at the keyboard.

    `what`: of which key, for the prompt.
    """

    def ask() -> str:
        if path is not None:
            return read_passphrase(path)
        if not sys.stdin.isatty():
            raise Unavailable("passphrase", why="no keyboard; give --passphrase-file")
        return getpass.getpass(f"passphrase of {what}: " if what else "passphrase: ")

    return ask


def new_passphrase(path: Path | None) -> str:
    """A passphrase for keys that are about to be made; typed twice.

    Raises:
        Malformed: it is empty, or was typed in two ways.
        Unavailable: there is neither a file nor a keyboard.
    """
    passphrase = passphrase_of(path, "the new keys")()
    if not passphrase:
        wanted = "at least one character; --no-passphrase leaves keys open"
        raise Malformed("passphrase", wanted=wanted, got="none")
    if path is None and passphrase_of(None, "the new keys, again")() != passphrase:
        raise Malformed("passphrase", wanted="the same one twice", got="two")
    return passphrase


def open_key(path: Path, passphrase_file: Path | None) -> "KeyFile":
    """The key in a file; raises as `read_key_file`."""
    from firedoor.runtime.keys.key_files import read_key_file  # noqa: PLC0415  # keeps --help fast

    return read_key_file(path, passphrase_of(passphrase_file, path.name))


def checked_public(what: str, text: str) -> str:
    """A public key that a person has typed; `what`: the option.

    Raises:
        Malformed: not 64 hex digits.
    """
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):  # noqa: PLR2004  # 32 bytes
        raise Malformed(what, wanted="a public key, 64 hex digits", got=repr(text[:80]))
    return text

"""/etc/firedoor/helper.toml: what root lets the agent ask for. Read anew for each request.

It counts only where nobody but root can have written it: the file, and each folder above it.
"""

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = Path("/etc/firedoor/helper.toml")

_BYTES_MAX = 1 << 16

_PRODUCT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

# A check that has not ended by then counts as failed.
_CHECK_S = 30.0
_CHECK_S_MAX = 600.0


class Refusal(Exception):  # it is an answer
    """What is asked for is not done; the text says why."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product whose agent may ask. `root`: its folder; `check_s`: the most that a check takes."""

    root: Path
    check_s: float


@dataclass(frozen=True, slots=True)
class Configuration:
    """The whole file."""

    agent_user: str
    check_user: str
    products: dict[str, Product]


def read_configuration(path: Path = CONFIGURATION) -> Configuration:
    """What the file says.

    Raises:
        Refusal: it is not there, not root's alone, too long, or says what cannot be.
    """
    for each in (path, *path.absolute().parents):
        _require_roots(each)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refusal(f"{path}: wanted a regular file")
            text = file.read(_BYTES_MAX + 1)
        if len(text) > _BYTES_MAX:
            raise Refusal(f"{path}: wanted at most {_BYTES_MAX} bytes")
        return _configuration(path, tomllib.loads(text.decode()))
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{path}: {error}") from error


def _configuration(path: Path, table: dict[str, Any]) -> Configuration:
    _require_keys(path, table, {"agent_user", "check_user", "products"})
    products = table["products"]
    if not isinstance(products, dict):
        raise Refusal(f"{path}: wanted tables [products.NAME]")
    users = [table["agent_user"], table["check_user"]]
    for user in users:
        if not isinstance(user, str) or not _USER.fullmatch(user) or user == "root":
            raise Refusal(f"{path}: wanted the name of a user that is not root, got {user!r}")
    if users[0] == users[1]:
        raise Refusal(f"{path}: wanted a check_user that is not the agent's")
    found = {name: _product(f"{path}: products.{name}", row) for name, row in products.items()}
    return Configuration(users[0], users[1], found)


def _product(what: str, row: object) -> Product:
    if not isinstance(row, dict):
        raise Refusal(f"{what}: wanted a table")
    _require_keys(what, row, {"root"}, {"check_s"})
    root, check_s = row["root"], row.get("check_s", _CHECK_S)
    if not isinstance(root, str) or not root.startswith("/") or "\0" in root:
        raise Refusal(f"{what}.root: wanted an absolute path, got {root!r}")
    if not isinstance(check_s, int | float) or not 0 < check_s <= _CHECK_S_MAX:
        raise Refusal(f"{what}.check_s: wanted seconds up to {_CHECK_S_MAX:g}, got {check_s!r}")
    if not _PRODUCT.fullmatch(what.rpartition("products.")[2]):
        raise Refusal(f"{what}: wanted the name of a product")
    return Product(Path(root), float(check_s))


def _require_keys(
    what: object, row: dict[str, Any], needed: set[str], more: set[str] | None = None
) -> None:
    if unknown := sorted(set(row) - needed - (more or set())):
        raise Refusal(f"{what}: unknown key {unknown[0]!r}")
    if missing := sorted(needed - set(row)):
        raise Refusal(f"{what}: {missing[0]} is missing")


def _require_roots(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode) or found.st_uid != 0:
        raise Refusal(f"{path}: wanted root's own, and no link")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refusal(f"{path}: wanted one that nobody else can write")

"""Releases as publishers' signed lists name them, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tuf.api.metadata import TargetFile, Targets

from firedoor.errors import Malformed, Refused
from firedoor.identity import checked_name
from firedoor.pieces.manifest import Facts
from firedoor.runtime.logs import log
from firedoor.wire.codec import record

# Of a role's file so many versions stay: whoever syncs just now may be at the one before.
_VERSIONS_KEPT = 3


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """One release in signed metadata. `manifest`: SHA-256 of its manifest in hex.

    `counter` orders the releases of a product; `content` is the content digest; `publisher` is
    whose list names it; `floor` is the lowest counter to step back to; `controller` the public key,
    in hex, that may halt this release.
    """

    product: str
    version: str
    manifest: str
    length: int
    counter: int
    content: bytes
    handler: str
    publisher: str = ""
    floor: int = 0
    controller: str = ""


def entries_of(role: str, listed: Targets) -> list[ReleaseEntry]:
    """The rows of a list, but for those that this version cannot read: they list nothing."""
    found: list[ReleaseEntry] = []
    unread: list[str] = []
    for path, target in sorted(listed.targets.items()):
        try:
            found.append(entry_of(role, path, target))
        except Refused as error:
            unread.append(str(error))
    if unread:
        log("rows-unread", level="error", role=role, count=len(unread), why=unread[0])
    return found


def entry_of(role: str, path: str, target: TargetFile) -> ReleaseEntry:
    """One row of a publisher's list.

    Raises:
        Malformed: it is none.
    """
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != "releases":  # noqa: PLR2004  # releases/PRODUCT/VERSION
        raise Malformed("target path", wanted="releases/PRODUCT/VERSION", got=repr(path[:80]))
    product, version = checked_name("product", parts[1]), checked_name("version", parts[2])
    digest = target.hashes.get("sha256")
    if digest is None:
        raise Malformed(path, wanted="a SHA-256 digest", got="others only")
    facts = record(Facts, target.custom, what=path)
    content = bytes.fromhex(facts.content)
    # A floor above its own release would forbid every step back.
    floor = facts.floor if facts.floor <= facts.counter else 0
    length, counter, handler = target.length, facts.counter, facts.handler
    publisher = role.rpartition("/")[2]
    return ReleaseEntry(
        product,
        version,
        digest,
        length,
        counter,
        content,
        handler,
        publisher,
        floor,
        facts.controller,
    )


def superseded(newest: Mapping[str, int], folder: Path) -> list[str]:
    """The files in `folder` of versions well before the newest of their role, by name.

    A root is never among them: the way from the first to today's goes over each.
    """
    found = []
    for path in folder.glob("*.*.json"):
        version, _, role = path.name.removesuffix(".json").partition(".")
        last = newest.get(unquote(role), 0)
        if version.isdecimal() and role != "root" and int(version) <= last - _VERSIONS_KEPT:
            found.append(path.name)
    return found

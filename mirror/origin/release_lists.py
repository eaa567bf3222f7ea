"""What the origin asks of a publisher's list beyond its signature: that every client can take it.

A row stays for ever and is read by each machine of the fleet. So a list has the fields that this
version knows and no others, is flat, runs for a while, and its rows are read here as clients read
them.
"""

from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import Metadata, TargetFile, Targets

from firedoor.errors import Malformed, TooLarge, Untrusted
from firedoor.limits import (
    COUNTER_STEP_MAX,
    METADATA_BYTES_MAX,
    RELEASE_LIST_BYTES_MAX,
    RELEASE_LIST_SPAN_MIN_S,
)
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.metadata.release_entries import entry_of
from firedoor.units import UnixTime

# signed, targets, one row, custom, and their lists and maps.
_DEPTH_MAX = 12

_QUOTE, _BACKSLASH, _OPEN = ord('"'), ord("\\"), b"[{"
# What follows a backslash matters only where it is one of these.
_PLAIN = bytes(each for each in range(256) if each not in b'"\\[]{}')


def check_bytes(data: bytes) -> None:
    """Whether this may be read as a list at all, looked at before it is.

    Raises:
        TooLarge: above the limit of metadata.
        Malformed: brackets in brackets, deeper than any list.
    """
    if len(data) > METADATA_BYTES_MAX:
        raise TooLarge("metadata", limit=METADATA_BYTES_MAX, size=len(data))
    depth = deepest(data)
    if depth > _DEPTH_MAX:
        raise Malformed("metadata", wanted=f"at most {_DEPTH_MAX} levels", got=str(depth))


def deepest(data: bytes) -> int:
    """How many brackets are open at once in a JSON text, at most; those in strings do not count."""
    most = depth = 0
    is_text = is_escaped = False
    for byte in data.translate(None, delete=_PLAIN):
        if is_escaped:
            is_escaped = False
        elif is_text:
            is_escaped = byte == _BACKSLASH
            is_text = byte != _QUOTE
        elif byte == _QUOTE:
            is_text = True
        elif byte in _OPEN:
            depth += 1
            most = max(most, depth)
        else:
            depth -= 1
    return most


def check_list(role: str, new: Metadata[Targets], now: UnixTime) -> None:
    """Whether every client can take this list, now and when it is signed anew.

    Raises:
        Malformed: a field that this version does not know, or a row that clients cannot read.
        TooLarge: too long once it is written by this version.
        Untrusted: it runs out within a week.
    """
    size = len(new.to_bytes())
    if size > RELEASE_LIST_BYTES_MAX:
        raise TooLarge("list of releases", limit=RELEASE_LIST_BYTES_MAX, size=size)
    if new.signed.expires.timestamp() < now + RELEASE_LIST_SPAN_MIN_S:
        wanted = f"a date {RELEASE_LIST_SPAN_MIN_S // 86400} days from now, or later"
        raise Untrusted("metadata", wanted=wanted, got=str(new.signed.expires))
    _require_known("metadata", new.unrecognized_fields, set())
    _require_known("list of releases", new.signed.unrecognized_fields, set())
    for path, target in new.signed.targets.items():
        _check_row(role, path, target)


def check_order(manifest: Manifest, old: Targets) -> None:
    """Whether a release's counter and floor leave room for those to come, and for a step back.

    Raises:
        Malformed: its counter is far above all others, or its floor above itself.
    """
    prefix = f"releases/{manifest.product}/"
    counters = [
        int(target.custom["counter"])
        for path, target in old.targets.items()
        if path.startswith(prefix) and isinstance(target.custom, dict)
    ]
    bound = max(counters, default=0) + COUNTER_STEP_MAX
    if manifest.counter > bound:
        raise Malformed("counter", wanted=f"at most {bound}", got=str(manifest.counter))
    if manifest.floor not in {0, manifest.counter, *counters}:
        wanted = "the counter of a release of this product"
        raise Malformed("floor", wanted=wanted, got=str(manifest.floor))


def _check_row(role: str, path: str, target: TargetFile) -> None:
    _require_known(path, target.unrecognized_fields, {"custom"})
    if set(target.hashes) != {"sha256"}:
        raise Malformed(path, wanted="a SHA-256 digest alone", got=", ".join(target.hashes)[:80])
    entry_of(role, path, target)


def _require_known(what: str, fields: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(fields) - known):
        raise Malformed(what[:160], wanted="known fields only", got=", ".join(unknown)[:80])

"""Reading a manifest file by file, so that neither memory nor the time of one step grows with it.

How many files it names is known before the first is read. A thread that reads one lets others in
between any two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import msgpack

from firedoor.errors import Malformed, TooLarge
from firedoor.limits import (
    FILES_MAX,
    FILES_NORMAL_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_NORMAL_BYTES_MAX,
)
from firedoor.wire.codec import reader_of, record

F = TypeVar("F")

# More fields than a manifest has.
_FIELDS_MAX = 64


@dataclass(frozen=True, slots=True)
class Bound:
    """What a manifest may be: its size in bytes, and how many files it names."""

    size: int
    files: int


NORMAL = Bound(MANIFEST_NORMAL_BYTES_MAX, FILES_NORMAL_MAX)
"""What each program takes."""

LARGE = Bound(MANIFEST_BYTES_MAX, FILES_MAX)
"""What programs take whose settings say `large_manifests`, and whatever is held already."""


def read_fields(
    data: bytes, bound: Bound, kind: type[F], *, name: str
) -> tuple[dict[str, object], tuple[F, ...]]:
    """The fields of the one map in `data`, but for `name`: its list is read as records of `kind`.

    Raises:
        TooLarge: longer than the bound, or more files than it allows.
        Malformed: not one map of text keys, a key twice, a tail, or an item that is no such record.
    """
    if len(data) > bound.size:
        raise TooLarge("manifest", limit=bound.size, size=len(data))
    reader = reader_of(data)
    fields: dict[str, object] = {}
    found: tuple[F, ...] | None = None
    for _ in range(_step(reader.read_map_header, most=_FIELDS_MAX)):
        key = _step(reader.unpack)
        if not isinstance(key, str) or key in fields or (key == name and found is not None):
            raise Malformed("manifest", wanted="each key once, as text", got=repr(key)[:80])
        if key == name:
            count = _step(reader.read_array_header)
            if count > bound.files:
                raise TooLarge("files of a release", limit=bound.files, size=count)
            found = tuple(record(kind, _step(reader.unpack), what="manifest") for _ in range(count))
        else:
            fields[key] = _step(reader.unpack)
    if reader.tell() != len(data):
        raise Malformed("manifest", wanted="one msgpack value", got="a tail")
    if found is None:
        raise Malformed("manifest", wanted=name, got="none")
    return fields, found


def _step(read: Callable[[], F], *, most: int | None = None) -> F:
    try:
        value = read()
    # As codec.unpack says.
    except (ValueError, msgpack.UnpackException) as error:
        got = str(error) or type(error).__name__
        raise Malformed("manifest", wanted="one msgpack value", got=got[:120]) from error
    if most is not None and cast("int", value) > most:
        raise Malformed("manifest", wanted=f"at most {most} fields", got=str(value))
    return value

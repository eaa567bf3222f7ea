"""One strict way from bytes to a frozen record and back.

* The size is checked before the first byte is parsed; every container inside has the same cap.
* Map keys are text, a key twice is refused, a missing field is refused.
* An unknown field is refused, but for messages (versions.py): there it is left out and counted.
* Types are exact: no text for a number, no float for an integer, no bytes for text.

It does not know any message; messages.py, order.py and manifest.py bring their own records.
Source: msgpack specification; msgspec `convert` with `strict=True` for the types.
"""

from dataclasses import asdict, fields, is_dataclass
from typing import TypeVar, cast

import msgpack
import msgspec

from firedoor.errors import Malformed, TooLarge
from firedoor.wire.versions import Skipped

R = TypeVar("R")

# In honest records each list and map takes more than 16 bytes with its content, but for a few.
_BYTES_PER_CONTAINER = 16
_CONTAINERS_FREE = 1024

# How msgpack writes 32 bytes, and lists by their length.
_DIGEST_MARK = b"\xc4\x20"
_DIGEST_BYTES = 32
_LIST_MARKS = {0xDC: 2, 0xDD: 4}


def pack(value: object) -> bytes:
    """`value`, built of None, bool, int, float, str, bytes, list, tuple and dict, as msgpack."""
    return cast("bytes", msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes, *, what: str, limit: int) -> object:
    """The one msgpack value that `data` holds, whole and with no tail.

    Raises:
        TooLarge: `data` is longer than `limit` bytes.
        Malformed: it is not msgpack, has a tail, a key twice, or a key that is not text.
    """
    if len(data) > limit:
        raise TooLarge(what, limit=limit, size=len(data))
    try:
        count = _Containers(_CONTAINERS_FREE + len(data) // _BYTES_PER_CONTAINER)
        return cast(
            "object",
            msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=True,
                object_pairs_hook=count.once,
                list_hook=count.counted,
            ),
        )
    # msgpack documents ValueError for all bad input (UnpackException is one but for OutOfData) and
    # RecursionError-like StackError, a ValueError too; a hook's own error passes through.
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(what, wanted="one msgpack value", got=_brief(error)) from error


def reader_of(data: bytes) -> msgpack.Unpacker:
    """Reads the value in `data` a part at a time, by the rules of `unpack`.

    Its errors are those of msgpack: ValueError and UnpackException.
    """
    count = _Containers(_CONTAINERS_FREE + len(data) // _BYTES_PER_CONTAINER)
    reader = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        object_pairs_hook=count.once,
        list_hook=count.counted,
        max_buffer_size=len(data),
    )
    reader.feed(data)
    return reader


def digests_of(data: bytes, *, what: str) -> list[bytes]:
    """The list of 32-byte digests that `data` holds; nothing else in it is ever made an object.

    Raises:
        Malformed: it is something else.
    """
    mark = data[0] if data else 0
    width = _LIST_MARKS.get(mark, 0)
    count = int.from_bytes(data[1 : 1 + width]) if width else mark & 0x0F
    size, start = len(_DIGEST_MARK) + _DIGEST_BYTES, 1 + width
    is_list = width > 0 or mark & 0xF0 == 0x90  # noqa: PLR2004  # a short list
    if not is_list or len(data) != start + count * size:
        raise Malformed(what, wanted="a list of digests", got=f"{len(data)} other bytes")
    parts = [data[at : at + size] for at in range(start, len(data), size)]
    if not all(part.startswith(_DIGEST_MARK) for part in parts):
        raise Malformed(what, wanted="a list of digests", got="something else in it")
    return [part[len(_DIGEST_MARK) :] for part in parts]


def record(kind: type[R], value: object, *, what: str, skipped: Skipped | None = None) -> R:
    """`value`, a map of exactly the fields of the dataclass `kind`, as that record.

    A field that has a default may be missing. With `skipped`, unknown fields are counted there and
    left out; without it they are refused.

    Raises:
        Malformed: not a map, an unknown or missing field, or a field of another type or range.
    """
    if not isinstance(value, dict):
        raise Malformed(what, wanted="a map", got=type(value).__name__)
    try:
        # Without `builtin_types` msgspec would take base64 text for bytes: two forms of one record.
        read = msgspec.convert(value, kind, strict=True, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise Malformed(what, wanted=f"a {kind.__name__}", got=_brief(error)) from error
    unknown = _unknown(read, value)
    if skipped is not None:
        skipped.fields += len(unknown)
    elif unknown:
        raise Malformed(what, wanted="known fields only", got=", ".join(unknown)[:80])
    return read


def decode(kind: type[R], data: bytes, *, what: str, limit: int) -> R:
    """`unpack` and `record` in one step.

    Raises:
        TooLarge: `data` is longer than `limit` bytes.
        Malformed: as `unpack` and `record` say.
    """
    return record(kind, unpack(data, what=what, limit=limit), what=what)


def encode(value: object) -> bytes:
    """A dataclass record as the bytes that `decode` takes."""
    if not is_dataclass(value) or isinstance(value, type):
        raise ValueError(f"encode: wanted a record, got {type(value).__name__}")
    return pack(asdict(value))


def _unknown(read: object, value: object) -> list[str]:
    """The fields of `value` that no record in `read`, which it was taken for, has.

    The depth is that of the record types, not of the input: what they do not name is not entered.
    """
    found: list[str] = []
    if is_dataclass(read) and isinstance(value, dict):
        names = {field.name for field in fields(read)}
        found += sorted(set(value) - names)
        for name in value:
            if name in names:
                found += _unknown(getattr(read, name), value[name])
    elif isinstance(read, tuple) and isinstance(value, list | tuple):
        # A list is of one type: where the first is no record and no list, none is.
        for inner, each in zip(read, value, strict=True) if _may_hold(read) else ():
            found += _unknown(inner, each)
    elif isinstance(read, dict) and isinstance(value, dict):
        for name in value:
            found += _unknown(read[name], value[name])
    return found


def _may_hold(items: tuple[object, ...]) -> bool:
    return bool(items) and not isinstance(items[0], str | bytes | int | float | None)


class _Containers:
    """Counts lists and maps while they are read: an empty one is one byte, and 64 in memory."""

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def counted(self, items: list[object]) -> list[object]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("more lists and maps than its size allows")
        return items

    def once(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        self.counted([])
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key twice")
        if not all(isinstance(key, str) for key in table):
            raise ValueError("a key that is not text")
        return table


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:120]

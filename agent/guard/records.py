"""What the boot guard reads of orders: the log's frames, and msgpack, by the standard library.

The orders were verified before they were recorded, so no signature is looked at here. Which of them
are in force follows halt/orderset.py but for thresholds, which stand in metadata that is not read
here: an order of which any key is left counts.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

LEVEL_IN_DOUBT = 4
LEVEL_MAX = 7

_HEAD = struct.Struct(">III")
_DEPTH_MAX = 8

# Beacons, and the ids for which a witness has signed.
_PASSED_OVER = {b"b", b"v"}

_ZEROS_BYTES = 1 << 16


class DoubtError(Exception):
    """Something is not as it must be, so nothing is changed."""


@dataclass(frozen=True, slots=True)
class Halt:
    """What a halt says, and how many keys have signed it.

    `reached`: contents for which one key's level holds, as the agent decided; None: it did not.
    """

    id: bytes
    scope: str
    level: int
    contents: frozenset[bytes]
    keyids: frozenset[str]
    reached: frozenset[bytes] | None = None
    is_by_controller: bool = False


Named = tuple[str, str, int]
"""Product, version and counter of a release."""


@dataclass(slots=True)
class Orders:
    """What the log and the tombstones hold."""

    halts: dict[bytes, Halt] = field(default_factory=dict)
    lifts: dict[bytes, tuple[frozenset[bytes], frozenset[str]]] = field(default_factory=dict)
    revokes: dict[bytes, tuple[str, frozenset[bytes]]] = field(default_factory=dict)
    acted: set[bytes] = field(default_factory=set)
    forgotten: set[bytes] = field(default_factory=set)
    named: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    known: dict[bytes, set[Named]] = field(default_factory=dict)
    reached: dict[bytes, frozenset[bytes]] = field(default_factory=dict)

    def in_force(self) -> list[Halt]:
        """The halts that nothing lifts."""
        revokes = [each for key, each in self.revokes.items() if key in self.acted]
        lifted: set[bytes] = set()
        for key, (ids, keyids) in self.lifts.items():
            gone = {keyid for keyid, survivors in revokes if key not in survivors}
            lifted |= ids if key in self.acted and keyids - gone else set()
        alive = []
        for halt in self.halts.values():
            gone = {keyid for keyid, survivors in revokes if halt.id not in survivors}
            left = halt.keyids - gone
            if halt.id not in lifted and left:
                contents = halt.contents | self.named.get(halt.id, frozenset())
                reached = self.reached.get(halt.id)
                alive.append(replace(halt, contents=contents, keyids=left, reached=reached))
        return alive


class Bytes(Protocol):
    """Where a log is read from."""

    size: int

    def read(self, at: int, count: int) -> bytes:
        """So many bytes from `at`, or those that there are."""


def read_log(fleet: str, log: Bytes) -> Orders:
    """The orders in a log; whatever is damaged is left out."""
    orders = Orders()
    for body in frames(log):
        if body[:1] == b"o":
            _take(orders, fleet, body[1:])
        elif body[:1] == b"a":
            orders.acted.add(body[1:])
        elif body[:1] == b"d":
            _take_decision(orders, body[1:])
        elif body[:1] == b"k":
            _take_known(orders, body[1:])
        elif body[:1] == b"f":
            # A compaction has left it out; one that comes after this was signed anew.
            orders.halts.pop(body[1:], None)
            orders.forgotten.add(body[1:])
    return orders


def with_tombstones(orders: Orders, fleet: str, tombstones: Iterable[bytes]) -> Orders:
    """The same with what lies beside a product; `orders` stays as it is."""
    more = replace(
        orders, halts={**orders.halts}, lifts={**orders.lifts}, revokes={**orders.revokes}
    )
    for record in tombstones:
        _take(more, fleet, record, is_verified=False)
    for order_id in orders.forgotten - set(orders.halts):
        more.halts.pop(order_id, None)
    return more


def frames(log: Bytes) -> Iterator[bytes]:
    """The bodies of whole frames of an order log, as runtime/storage/order_log.py writes them.

    Without those of beacons and of a witness's words, which say nothing of what may run.
    """
    at = 0
    while at + _HEAD.size <= log.size:
        head = log.read(at, _HEAD.size + 1)
        if len(head) <= _HEAD.size:
            return
        length, crc, head_crc = _HEAD.unpack_from(head)
        if head_crc != zlib.crc32(head[:8]) or not length or at + _HEAD.size + length > log.size:
            at += _step(log, at)
        elif head[_HEAD.size :] in _PASSED_OVER:
            at += _HEAD.size + length
        elif zlib.crc32(body := log.read(at + _HEAD.size, length)) != crc:
            at += 1
        else:
            yield body
            at += _HEAD.size + length


def _step(log: Bytes, at: int) -> int:
    """How far to go on from where no frame begins: by one, or over the zeros of held room."""
    block = log.read(at, _ZEROS_BYTES)
    zeros = len(block) - len(block.lstrip(b"\0"))
    # The head of a frame begins with zeros, too.
    return max(1, zeros - _HEAD.size) if zeros < len(block) else max(1, len(block) - _HEAD.size)


def _take(orders: Orders, fleet: str, record: bytes, *, is_verified: bool = True) -> None:
    """Read one order. `is_verified`: before it was recorded, as those in the log were."""
    # Of what cannot be read at all there is nothing else to know it by.
    order_id, keyids = sha256(record).digest(), frozenset({"?"})
    try:
        envelope = unpack(record)
        kind, payload = envelope["kind"], envelope["payload"]
        order_id = sha256(f"firedoor/{fleet}/{kind}/v1\0".encode() + payload).digest()
        keyids = frozenset(each["keyid"] for each in envelope["signatures"])
        said = unpack(payload)
        # A controller's halt names one release and no contents, so it is read as any other.
        if kind in {"halt", "controller-halt"}:
            _check_halt(said)
            facts = (said["scope"], int(said["level"]), frozenset(said.get("contents", ())))
            is_by_controller = kind == "controller-halt"
            halt = Halt(order_id, *facts, keyids, is_by_controller=is_by_controller)
            orders.halts[order_id] = halt
        elif kind == "resume":
            orders.lifts[order_id] = (frozenset(said["halts"]), keyids)
        elif kind == "revoke":
            orders.revokes[order_id] = (said["keyid"], frozenset(said["survivors"]))
    except (DoubtError, KeyError, TypeError, ValueError):
        if not is_verified:
            return  # Junk that lies beside a product means nothing.
        # It was verified before it was recorded: like the agent, take it as a halt of everything.
        doubt = Halt(order_id, "everything", LEVEL_IN_DOUBT, frozenset(), keyids)
        orders.halts[order_id] = doubt


def _take_decision(orders: Orders, record: bytes) -> None:
    """Read what the agent has decided about a halt (halt/reach.py); junk decides nothing."""
    try:
        said = unpack(record)
        order, named, reached = said["order"], frozenset(said["named"]), said["reached"]
        orders.named[order] = orders.named.get(order, frozenset()) | named
        if reached is not None:
            orders.reached.setdefault(order, frozenset(reached))
    except (DoubtError, KeyError, TypeError, ValueError):
        return


def _take_known(orders: Orders, record: bytes) -> None:
    """Read a release that some halt names (halt/reach.py), by its content."""
    try:
        said = unpack(record)
        facts = (str(said["product"]), str(said["version"]), int(said["counter"]))
        orders.known.setdefault(said["content"], set()).add(facts)
    except (DoubtError, KeyError, TypeError, ValueError):
        return


_HALT_FIELDS = {"version", "nonce", "scope", "level", "issued_at", "reason", "contents"}
_SCOPE = re.compile(
    r"everything|digest:[0-9a-f]{64}|(?:publisher|site|ring):[^:#=]+|[^:#=]+(?:#([0-9]+)\.\.([0-9]+)|==.+)?"
)


def _check_halt(said: Any) -> None:  # noqa: ANN401  # whatever was signed
    """Nothing, if this version understands all of it, as halt/order.py asks."""
    is_known = set(said) | {"contents"} == _HALT_FIELDS and said["version"] == 1
    if not is_known or not 1 <= said["level"] <= LEVEL_MAX:
        raise DoubtError("a halt of another version")
    found = _SCOPE.fullmatch(said["scope"])
    if found is None or (found[1] and not 1 <= int(found[1]) <= int(found[2])):
        raise DoubtError("a halt of an unknown scope")


def unpack(data: bytes) -> Any:  # noqa: ANN401  # whatever the bytes say
    """One msgpack value of maps, lists, text, bytes, numbers, True, False and None."""
    value, end = _value(data, 0, _DEPTH_MAX)
    if end != len(data):
        raise DoubtError("a tail after a record")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(data) or depth == 0:
        raise DoubtError("a record that ends early or is too deep")
    mark = data[at]
    if mark < 0x80 or mark >= 0xE0:
        return (mark if mark < 0x80 else mark - 0x100), at + 1
    if mark in {0xC0, 0xC2, 0xC3}:
        return {0xC0: None, 0xC2: False, 0xC3: True}[mark], at + 1
    if mark in _NUMBERS:
        form = struct.Struct(_NUMBERS[mark])
        _need(data, at + 1 + form.size)
        return form.unpack_from(data, at + 1)[0], at + 1 + form.size
    kind, count, at = _sized(data, at)
    if kind in "sb":
        _need(data, at + count)
        part = data[at : at + count]
        return (part.decode() if kind == "s" else part), at + count
    items = []
    for _ in range(count * (2 if kind == "m" else 1)):
        item, at = _value(data, at, depth - 1)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == "m" else items), at


_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i"} | {
    0xD3: ">q"
}
# Text, bytes, list and map, and how the length after the mark is written.
_SIZED = {0xD9: ("s", ">B"), 0xDA: ("s", ">H"), 0xDB: ("s", ">I"), 0xC4: ("b", ">B")} | {
    0xC5: ("b", ">H"),
    0xC6: ("b", ">I"),
    0xDC: ("l", ">H"),
    0xDD: ("l", ">I"),
    0xDE: ("m", ">H"),
    0xDF: ("m", ">I"),
}


def _sized(data: bytes, at: int) -> tuple[str, int, int]:
    """What begins at `at`, how many items or bytes it has, and where they begin."""
    mark = data[at]
    if 0x80 <= mark <= 0x8F:
        return "m", mark & 0x0F, at + 1
    if 0x90 <= mark <= 0x9F:
        return "l", mark & 0x0F, at + 1
    if 0xA0 <= mark <= 0xBF:
        return "s", mark & 0x1F, at + 1
    if mark not in _SIZED:
        raise DoubtError(f"an unknown mark {mark:#x}")
    kind, form = _SIZED[mark]
    size = struct.calcsize(form)
    _need(data, at + 1 + size)
    return kind, struct.unpack_from(form, data, at + 1)[0], at + 1 + size


def _need(data: bytes, end: int) -> None:
    if end > len(data):
        raise DoubtError("a record that ends early")

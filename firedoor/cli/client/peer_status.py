"""A peer's status, read into records before a person or a command goes by any of it.

The peer may lie, and may be hostile: what is not of the form that README.md describes is refused in
one sentence, every number is in its range, and every text that is shown passes `plain` here, so no
other place can forget it. Keys that a later version adds are passed over.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from firedoor.halt.scope import Subject
from firedoor.limits import ENDPOINTS_MAX, ORDERS_MAX
from firedoor.runtime.terminal import plain
from firedoor.wire.json_text import json_map, read_json

# A fleet's releases over its years; a status lists them all.
_RELEASES_MAX = 65_536

Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
# An id as it is shown; commands that go by it look at its form.
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}\Z")]
Level = Annotated[int, Meta(ge=0, le=7)]
Whole = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=10**9)]
Connection = Annotated[str, Meta(max_length=4096)]


class Release(msgspec.Struct, frozen=True):
    """One release that the peer knows; `level` in effect there, `level_lowered` as signed."""

    product: Connection
    version: Connection
    level: Level
    counter: Whole = 0
    level_lowered: Level = 0
    manifest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    content: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    pieces_have: Whole = 0
    pieces_total: Whole = 0

    @property
    def subject(self) -> Subject:
        """What a scope may name of it."""
        return Subject(
            self.product, self.version, bytes.fromhex(self.content), counter=self.counter
        )


class Order(msgspec.Struct, frozen=True):
    """One order that the peer holds, of whatever kind."""

    id: Id
    kind: Connection
    reason: Connection = ""
    issued_at: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 0
    is_named: bool = False
    is_recorded: bool = False
    is_in_force: bool = False
    scope: Connection = ""
    level: Level = 0
    peer: Annotated[str, Meta(pattern=r"^[0-9a-f]{0,32}\Z")] = ""
    halts: Annotated[tuple[Id, ...], Meta(max_length=ORDERS_MAX)] = ()
    contents: Annotated[tuple[Id, ...], Meta(max_length=ORDERS_MAX)] = ()


class Product(msgspec.Struct, frozen=True):
    """What one endpoint has of one product."""

    product: Connection
    version: Connection
    phase: Connection
    detail: Connection = ""


Products = Annotated[tuple[Product, ...], Meta(max_length=4096)]


class Endpoint(msgspec.Struct, frozen=True):
    """What a mirror knows of one endpoint. `version`: of its agent."""

    id: Id
    site: Connection
    seen_at: Whole
    is_connected: bool
    products: Products
    orders: Annotated[tuple[Connection, ...], Meta(max_length=ORDERS_MAX)] = ()
    version: Connection = ""


class Lease(msgspec.Struct, frozen=True):
    """The terms of the peer's leases, in seconds."""

    start_s: Seconds
    move_s: Seconds


class PeerStatus(msgspec.Struct, frozen=True):
    """What one peer says of itself and its site, with every text safe to show."""

    id: Hex32
    role: Annotated[str, Meta(pattern=r"^(mirror|agent)\Z")]
    site: Connection
    releases: Annotated[tuple[Release, ...], Meta(max_length=_RELEASES_MAX)]
    orders: Annotated[tuple[Order, ...], Meta(max_length=2 * ORDERS_MAX)]
    is_reconciled: bool = False
    is_trust_fresh: bool = False
    is_fed_by_stick: bool = False
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=2 * ENDPOINTS_MAX)] = ()
    products: Products = ()
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and as the peer has sent it, for `--json` alone."""

    status: PeerStatus
    table: dict[str, Any]


def answer_of(body: bytes, what: str) -> Answer:
    """The status in an answer; `what` names the peer.

    Raises:
        Malformed: it is none.
    """
    table = json_map(body, what)
    return Answer(status_of(table, what), table)


def status_of(table: dict[str, Any], what: str = "status") -> PeerStatus:
    """The status in a table.

    Raises:
        Malformed: it is none.
    """
    return read_json(PeerStatus, _plain(table), what)


def _plain(value: object, depth: int = 8) -> object:
    """The same value, every text in it on one line and without control characters."""
    if isinstance(value, str):
        return plain(value, 4096)
    if depth and isinstance(value, dict):
        return {plain(key, 64): _plain(each, depth - 1) for key, each in value.items()}
    if depth and isinstance(value, list):
        return [_plain(each, depth - 1) for each in value]
    return value if isinstance(value, bool | int | float) or value is None else None

"""What peers say to one another on their standing connection.

A frame is one msgpack list `[tag, fields]`. Nothing here says who speaks: that is in the
certificate. Orders and beacons travel as the signed bytes they came in, opaque to this file. New
fields and tags carry the version since which they are there (versions.py).
"""

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from firedoor.errors import Malformed
from firedoor.limits import (
    CERTIFICATE_DER_BYTES_MAX,
    FRAME_BYTES_MAX,
    INTEREST_MAX,
    LIST_ITEMS_MAX,
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    PATH_STEPS_MAX,
    RECEIPT_BYTES_MAX,
    RECEIPTS_MAX,
    ROSTER_MAX,
)
from firedoor.wire.codec import pack, record, unpack
from firedoor.wire.versions import SINCE, SPOKEN, Skipped, fields_for

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
# \Z, not $: the latter lets a line break through at the end.
ManifestId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Record = Annotated[bytes, Meta(max_length=ORDER_BYTES_MAX)]
Receipt = Annotated[bytes, Meta(max_length=RECEIPT_BYTES_MAX)]
# One side and a digest, or one mark: halt/merkle.py reads them.
Step = Annotated[bytes, Meta(min_length=1, max_length=33)]
# A beacon of this version lists its ids, so it is as large as the set may be.
BeaconRecord = Annotated[bytes, Meta(max_length=ORDERS_MAX * 40 + ORDER_BYTES_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**40)]
Text = Annotated[str, Meta(max_length=400)]


@dataclass(frozen=True, slots=True)
class Hello:
    """First on every connection. `orders`: digest of the order set; `port`: where I listen."""

    orders: Digest
    port: Annotated[int, Meta(ge=0, le=65535)]


@dataclass(frozen=True, slots=True)
class OrderIds:
    """Every order that the sender holds; sent when the digests in the hellos differ."""

    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class Orders:
    """Signed orders, as they came."""

    records: Annotated[tuple[Record, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class OrdersDone:
    """The sender has sent every order that the receiver lacked when it sent its ids."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The sender has reconciled its orders since its start, so its word reconciles others."""


@dataclass(frozen=True, slots=True)
class Obeyed:
    """To an operator: the sender's brake is closed by these orders; its disk comes next."""

    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """To an operator: an order that the receiver sent was not taken, and why."""

    why: Text


@dataclass(frozen=True, slots=True)
class Recorded:
    """These orders are durable at the sender."""

    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class Logged:
    """To an operator: these orders are in every lease that is made from now on."""

    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class Witness:
    """The sender holds this beacon key and countersigns what it can vouch for."""

    keyid: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True, slots=True)
class Countersign:
    """Down: sign this record too. Up: it is signed."""

    record: BeaconRecord


@dataclass(frozen=True, slots=True)
class Beacon:
    """What the origin has recorded, signed by it."""

    record: BeaconRecord


@dataclass(frozen=True, slots=True)
class LeaseAsked:
    """The sender asks for proof that its orders are complete. `is_urgent`: something waits."""

    nonce: Digest
    is_urgent: bool


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """The origin's signed answer, and the steps from the nonce to what it signed."""

    record: Record
    path: Annotated[tuple[Step, ...], Meta(max_length=PATH_STEPS_MAX)]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Signed receipts of endpoints, as they came."""

    records: Annotated[tuple[Receipt, ...], Meta(max_length=RECEIPTS_MAX)]


@dataclass(frozen=True, slots=True)
class Beat:
    """The sender lives; nothing else."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The sender serves signed metadata of these versions."""

    timestamp: Count
    targets: Count


@dataclass(frozen=True, slots=True)
class Interest:
    """The sender wants to know what the receiver holds of these releases, now and later."""

    manifests: Annotated[tuple[ManifestId, ...], Meta(max_length=INTEREST_MAX)]


@dataclass(frozen=True, slots=True)
class Bitfield:
    """Which pieces of a release the sender holds."""

    manifest: ManifestId
    bits: Annotated[bytes, Meta(max_length=131072)]


@dataclass(frozen=True, slots=True)
class Have:
    """Pieces of a release that the sender has verified since its bitfield."""

    manifest: ManifestId
    pieces: Annotated[tuple[Count, ...], Meta(max_length=LIST_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One endpoint of the site and where it listens."""

    id: Id
    host: Annotated[str, Meta(max_length=64)]
    port: Annotated[int, Meta(ge=1, le=65535)]


@dataclass(frozen=True, slots=True)
class Roster:
    """The endpoints connected to this mirror."""

    entries: Annotated[tuple[RosterEntry, ...], Meta(max_length=ROSTER_MAX)]


@dataclass(frozen=True, slots=True)
class RosterChange:
    """Which endpoints have come to this mirror, or moved, and which have gone since its roster."""

    come: Annotated[tuple[RosterEntry, ...], Meta(max_length=ROSTER_MAX)]
    gone: Annotated[tuple[Id, ...], Meta(max_length=ROSTER_MAX)]


@dataclass(frozen=True, slots=True)
class ProductHealth:
    """What one endpoint has of one product. `phase` is of agent/decisions/lifecycle.py."""

    product: Text
    version: Text
    manifest: Text
    phase: Text
    detail: Text = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The health of one peer: claims, not proofs.

    `orders`: halts in force that are durable there, in hex; `age_s`: since the endpoint said it;
    `is_connected`: to the mirror that passes it on; `lease_s`: how old a lease it starts with;
    `version`: of the program, empty where it is 0.1 or a mirror between is. An endpoint signs what
    it says (trust/report_signing.py) at `said_at`, by its own clock and never twice the same;
    `certificate`, in DER, goes along until a mirror has passed it on once.
    """

    id: Id
    role: Text
    site: Text
    products: Annotated[tuple[ProductHealth, ...], Meta(max_length=256)]
    orders: Annotated[tuple[Text, ...], Meta(max_length=256)]
    age_s: Count = 0
    is_connected: bool = True
    lease_s: Count = 30
    version: Text = field(default="", metadata={SINCE: 2})
    said_at: Count = field(default=0, metadata={SINCE: 2})
    signature: Annotated[bytes, Meta(max_length=64)] = field(default=b"", metadata={SINCE: 2})
    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_DER_BYTES_MAX)] = field(
        default=b"", metadata={SINCE: 2}
    )


@dataclass(frozen=True, slots=True)
class Health:
    """Reports of the sender and of those whom it speaks for."""

    reports: Annotated[tuple[Report, ...], Meta(max_length=ROSTER_MAX)]


Message = (
    Hello
    | OrderIds
    | Orders
    | OrdersDone
    | CaughtUp
    | Obeyed
    | OrderRefused
    | Recorded
    | Logged
    | Witness
    | Countersign
    | Beacon
    | LeaseAsked
    | LeaseGiven
    | Receipts
    | Beat
    | Announce
    | Interest
    | Bitfield
    | Have
    | Roster
    | RosterChange
    | Health
)

# The tags are the protocol: never renumbered, only added to.
TAGS: dict[int, type[Message]] = {
    1: Hello,
    2: OrderIds,
    3: Orders,
    4: OrdersDone,
    5: Recorded,
    6: Beacon,
    7: Announce,
    8: Interest,
    9: Bitfield,
    10: Have,
    11: Roster,
    12: Health,
    13: CaughtUp,
    14: Obeyed,
    15: OrderRefused,
    16: LeaseAsked,
    17: LeaseGiven,
    18: Receipts,
    19: Beat,
    20: Logged,
    21: Witness,
    22: Countersign,
    23: RosterChange,
}
_TAG_OF: dict[type[object], int] = {kind: tag for tag, kind in TAGS.items()}


# Tags that version 1 does not know, and the version since which they are there: none so far.
TAGS_SINCE: dict[int, int] = {}


def encode_message(message: object, speaks: int = SPOKEN) -> bytes:
    """One message as a frame for a peer that speaks `speaks`, with the fields that it knows."""
    return pack([_tag_of(message), fields_for(speaks, message)])


def is_known_to(message: object, speaks: int) -> bool:
    """Whether a peer that speaks `speaks` knows this kind of message."""
    return TAGS_SINCE.get(_tag_of(message), 1) <= speaks


def decode_message(frame: bytes, skipped: Skipped | None = None) -> Message | None:
    """The message in a frame; None: its tag is of a later version.

    What this version does not know is left out, and counted in `skipped`.

    Raises:
        TooLarge: the frame is above FRAME_BYTES_MAX.
        Malformed: not a frame, or fields out of their range.
    """
    skipped = skipped if skipped is not None else Skipped()
    value = unpack(frame, what="frame", limit=FRAME_BYTES_MAX)
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004  # tag and fields
        raise Malformed("frame", wanted="[tag, fields]", got=type(value).__name__)
    tag, body = value
    # repr of anything but a number may be deep enough to exhaust the stack.
    if type(tag) is not int:
        raise Malformed("frame", wanted="a tag", got=type(tag).__name__)
    kind = TAGS.get(tag)
    if kind is None:
        skipped.tags += 1
        return None
    return record(kind, body, what=kind.__name__, skipped=skipped)


def _tag_of(message: object) -> int:
    tag = _TAG_OF.get(type(message))
    if tag is None:
        raise ValueError(f"message: wanted one of wire/messages.py, got {type(message).__name__}")
    return tag

"""The attestation of a halt: who was expected, who has recorded and enforced it, who is silent.

* The origin signs who was expected at that moment and which receipts it has, each under a Merkle
  root. The receipts are signed by their endpoints, the halt by its keys, those by root: whoever has
  the fleet's first root.json can check the whole file offline. Of a controller's halt the origin's
  word is the proof.
* A silent endpoint cannot newly activate once the span of its lease has gone by since the origin
  committed the halt (S2); until then it is named as within its bound.

Source: halt/README.md, Proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from msgspec import Meta

from firedoor.errors import Malformed, Untrusted
from firedoor.halt.envelope import open_envelope, verify
from firedoor.halt.merkle import root_of
from firedoor.halt.order import Halt, Order, read_order
from firedoor.halt.receipt import Receipt, read_receipt
from firedoor.identity import PeerId
from firedoor.limits import (
    CERTIFICATE_BYTES_MAX,
    ENDPOINTS_MAX,
    METADATA_BYTES_MAX,
    ORDER_BYTES_MAX,
)
from firedoor.trust.keys import Authority
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Digest, Id, Record
from firedoor.wire.messages import Receipt as ReceiptRecord

FORMAT = "firedoor-certificate-1"


class Standing(Enum):
    """How one endpoint stands to a halt."""

    ENFORCED = "enforced"
    RECORDED = "recorded"
    WITHIN_BOUND = "silent, within its bound"
    PAST_BOUND = "silent, past its bound: it cannot newly activate"
    UNKNOWN = "never heard of"


@dataclass(frozen=True, slots=True)
class Expected:
    """One endpoint of the roster. `lease_s`: how long after the halt it could activate at most.

    `seen_at`: Unix time of its last report, 0 for none; `last`: what that said it runs.
    """

    id: Id
    site: Annotated[str, Meta(max_length=64)]
    seen_at: Annotated[int, Meta(ge=0)]
    lease_s: Annotated[int, Meta(ge=0)]
    last: Annotated[str, Meta(max_length=200)]


@dataclass(frozen=True, slots=True)
class AttestationPayload:
    """What the origin signs. Times are Unix; roots are over the lists of the file, in order."""

    version: Annotated[int, Meta(ge=1, le=1)]
    order: Digest
    logged_at: Annotated[int, Meta(ge=0)]
    made_at: Annotated[int, Meta(ge=0)]
    expected: Digest
    receipts: Digest
    clones: Digest


@dataclass(frozen=True, slots=True)
class AttestationFile:
    """The file: everything that its check needs beside the fleet's first root.json."""

    format: Annotated[str, Meta(max_length=40)]
    roots: Annotated[
        tuple[Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)], ...], Meta(max_length=1024)
    ]
    targets: Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]
    order: Record
    statement: Record
    expected: Annotated[tuple[Expected, ...], Meta(max_length=ENDPOINTS_MAX)]
    receipts: Annotated[tuple[ReceiptRecord, ...], Meta(max_length=ENDPOINTS_MAX)]
    clones: Annotated[tuple[Id, ...], Meta(max_length=ENDPOINTS_MAX)]


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint of an attestation."""

    endpoint: PeerId
    site: str
    standing: Standing
    had: str
    last: str
    is_clone: bool


@dataclass(frozen=True, slots=True)
class Attestation:
    """An attestation that was checked."""

    halt: Halt
    logged_at: int
    made_at: int
    rows: tuple[Row, ...]

    def count(self, *standings: Standing) -> int:
        """How many endpoints stand so."""
        return sum(row.standing in standings for row in self.rows)


def statement_of(
    order: bytes,
    *,
    times: tuple[int, int],
    expected: Sequence[Expected],
    receipts: Sequence[bytes],
    clones: Sequence[str],
) -> AttestationPayload:
    """What the origin signs over these lists; `times`: committed, made."""
    roots = [
        root_of([encode(each) for each in expected]),
        root_of(receipts),
        root_of([each.encode() for each in clones]),
    ]
    return AttestationPayload(1, order, *times, *roots)


def read_file(data: bytes) -> AttestationFile:
    """The file in `data`, unchecked.

    Raises:
        TooLarge, Malformed: it is none.
    """
    file = decode(AttestationFile, data, what="attestation", limit=CERTIFICATE_BYTES_MAX)
    if file.format != FORMAT:
        raise Malformed("attestation", wanted=FORMAT, got=repr(file.format))
    return file


def check(file: AttestationFile, authority: Authority) -> Attestation:
    """The attestation in a file, by the keys of a fleet; `authority` comes from its own metadata.

    Raises:
        Untrusted: a signature, a list or an order that is not what it must be.
        TooLarge, Malformed: a record in it is none.
    """
    order = _order_in(file.order, authority)
    if not isinstance(order, Halt):
        raise Untrusted("attestation", wanted="a halt or a drill", got=order.kind)
    envelope = open_envelope(file.statement, "certificate")
    verify(envelope, authority, what="certificate")
    said = decode(AttestationPayload, envelope.payload, what="attestation", limit=ORDER_BYTES_MAX)
    lists = {"expected": file.expected, "receipts": file.receipts, "clones": file.clones}
    times = (said.logged_at, said.made_at)
    if said != statement_of(order.id, times=times, **lists):  # type: ignore[arg-type]  # its own lists
        raise Untrusted("attestation", wanted="the lists that the origin signed", got="others")
    found = [read_receipt(record, authority.fleet) for record in file.receipts]
    if any(receipt.order != order.id for receipt in found):
        raise Untrusted("attestation", wanted="receipts of this halt", got="another's")
    receipts = {receipt.endpoint: receipt for receipt in found}
    rows = tuple(_row(each, receipts, said, file.clones) for each in file.expected)
    return Attestation(order, said.logged_at, said.made_at, rows)


def _order_in(record: bytes, authority: Authority) -> Order:
    """The halt; one by a controller stands by the origin's word, which signs its id.

    Whose key a release names is in its publisher's list, and that is not in the file.
    """
    order = read_order(record, authority, is_recorded=True)
    is_controllers = isinstance(order, Halt) and order.is_by_controller
    return order if is_controllers else read_order(record, authority)


def _row(
    expected: Expected,
    receipts: dict[PeerId, Receipt],
    said: AttestationPayload,
    clones: Sequence[str],
) -> Row:
    receipt = receipts.get(PeerId(expected.id))
    if receipt is not None:
        standing = Standing.ENFORCED if receipt.is_enforced else Standing.RECORDED
    elif not expected.seen_at:
        standing = Standing.UNKNOWN
    elif said.logged_at and said.made_at - said.logged_at > expected.lease_s:
        standing = Standing.PAST_BOUND
    else:
        standing = Standing.WITHIN_BOUND
    had = receipt.had.value if receipt is not None else ""
    is_clone = expected.id in clones
    return Row(PeerId(expected.id), expected.site, standing, had, expected.last, is_clone)

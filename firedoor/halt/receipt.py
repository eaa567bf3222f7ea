"""Receipts: an endpoint's signed word on one halt, and when two instances share one identity.

A receipt is a claim, not a proof of truth: it proves who said it. The key is that of the endpoint's
certificate, so its id is the digest of the public key that stands in the receipt.
Source: halt/README.md, Records.
"""

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Annotated

from msgspec import Meta
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import FleetId, PeerId
from firedoor.limits import ENDPOINTS_MAX, RECEIPT_BYTES_MAX
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Digest

Millis = Annotated[int, Meta(ge=0)]


# Two live instances overlap by more than a clock that is set right while an agent restarts.
OVERLAP_MS = 2000

# Starts of one agent that are told apart.
INSTANCES_MAX = 4


class LocalState(Enum):
    """What of the halted an endpoint had when it recorded the halt, or what became of it.

    STILL_RUNS: it should have been left, and there is nothing good to go back to.
    """

    NOTHING = "nothing"
    PIECES = "pieces"
    INSTALLED = "installed"
    ACTIVE = "active"
    ROLLED_BACK = "rolled back"
    STILL_RUNS = "still runs"


@dataclass(frozen=True, slots=True)
class ReceiptPayload:
    """What an endpoint signs. Times are its own wall clock's, in milliseconds; 0: not yet."""

    version: Annotated[int, Meta(ge=1, le=1)]
    order: Digest
    instance: Annotated[bytes, Meta(min_length=16, max_length=16)]
    recorded_at: Millis
    enforced_at: Millis
    had: Annotated[str, Meta(max_length=16)]


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt as it travels."""

    payload: bytes
    public: Digest
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt that its endpoint has signed. `instance`: random, of one start of its agent."""

    endpoint: PeerId
    order: bytes
    instance: bytes
    recorded_at: int
    enforced_at: int
    had: LocalState
    record: bytes

    @property
    def is_enforced(self) -> bool:
        """Whether all was done that the halt asks for there."""
        return self.enforced_at > 0 and self.had is not LocalState.STILL_RUNS


def seal_receipt(payload: ReceiptPayload, *, fleet: FleetId, seed: bytes) -> bytes:
    """Sign a receipt with the seed of an endpoint's TLS identity."""
    body = encode(payload)
    public = bytes(SigningKey(seed).verify_key)
    return encode(SignedReceipt(body, public, sign(seed, signed_bytes(fleet, "receipt", body))))


def read_receipt(record: bytes, fleet: FleetId) -> Receipt:
    """The receipt in `record`.

    Raises:
        TooLarge, Malformed: it is none.
        Untrusted: the key in it has not signed it.
    """
    signed = decode(SignedReceipt, record, what="receipt", limit=RECEIPT_BYTES_MAX)
    message = signed_bytes(fleet, "receipt", signed.payload)
    try:
        VerifyKey(signed.public).verify(message, signed.signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise Untrusted("receipt", wanted="its endpoint's signature", got="another") from error
    payload = decode(ReceiptPayload, signed.payload, what="receipt", limit=RECEIPT_BYTES_MAX)
    had = next((each for each in LocalState if each.value == payload.had), None)
    if had is None:
        raise Malformed("receipt", wanted="what it had", got=repr(payload.had))
    return Receipt(
        PeerId(sha256(signed.public).hexdigest()[:32]),
        payload.order,
        payload.instance,
        payload.recorded_at,
        payload.enforced_at,
        had,
        record,
    )


class ReceiptBook:
    """The newest receipt of each endpoint for each order, and who has two live instances.

    Each start of an agent is another instance, and the times that its receipts name are a span. Two
    spans of one identity that overlap are no restart: the identity was copied.
    """

    __slots__ = ("_by_order", "_own", "_spans", "clones")

    def __init__(self) -> None:
        self._by_order: dict[bytes, dict[PeerId, Receipt]] = {}
        self._spans: dict[PeerId, dict[bytes, tuple[int, int]]] = {}
        self._own: set[PeerId] = set()
        self.clones: set[PeerId] = set()

    def take(self, receipt: Receipt, *, is_own: bool = False) -> bool:
        """Whether it says something new; above ENDPOINTS_MAX endpoints of an order nothing does.

        `is_own`: its endpoint has brought it itself, and always has room: anybody can make up keys
        and sign with them, and a mirror can bring as many as it likes.
        """
        book = self._by_order.setdefault(receipt.order, {})
        known = book.get(receipt.endpoint)
        if known is None and len(book) >= ENDPOINTS_MAX and not is_own:
            return False
        self._see(receipt)
        if is_own:
            self._own.add(receipt.endpoint)
        is_news = known is None or (receipt.enforced_at > 0 and not known.enforced_at)
        if is_news:
            book[receipt.endpoint] = receipt
        return is_news

    def of(self, order: bytes) -> dict[PeerId, Receipt]:
        """The receipts for one order, by endpoint."""
        return dict(self._by_order.get(order, {}))

    def keep_only(self, orders: frozenset[bytes]) -> None:
        """Forget what is said of other orders."""
        self._by_order = {key: book for key, book in self._by_order.items() if key in orders}
        left = {peer for book in self._by_order.values() for peer in book}
        self._spans = {peer: spans for peer, spans in self._spans.items() if peer in left}
        self.clones &= left
        self._own &= left

    def all(self) -> list[Receipt]:
        """Every receipt, by order; first those that endpoints have brought themselves."""
        orders = sorted(self._by_order)
        found = [self._by_order[order][peer] for order in orders for peer in self._by_order[order]]
        return sorted(found, key=lambda each: (each.order, each.endpoint not in self._own))

    def _see(self, receipt: Receipt) -> None:
        spans = self._spans.setdefault(receipt.endpoint, {})
        moments = (receipt.recorded_at, max(receipt.recorded_at, receipt.enforced_at))
        first, last = spans.pop(receipt.instance, moments)
        mine = (min(first, moments[0]), max(last, moments[1]))
        others = spans.values()
        if any(max(mine[0], each[0]) + OVERLAP_MS < min(mine[1], each[1]) for each in others):
            self.clones.add(receipt.endpoint)
        spans[receipt.instance] = mine
        while len(spans) > INSTANCES_MAX:
            del spans[next(iter(spans))]

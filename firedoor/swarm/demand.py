"""One release that is being fetched: what is missing here, and which peer announced what of it.

* Batches are fixed runs of pieces; every endpoint cuts the same release into the same batches.
* A batch is missing while one of its pieces is.
* Only endpoints count as holders: a piece that the mirror alone has is the rarest there is.

It does not know peers' worth (standing.py), and chooses nothing (policy.py).
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from firedoor.errors import Malformed
from firedoor.identity import PeerId
from firedoor.limits import BATCH_BYTES, BATCH_PIECES_MAX, GAP_BYTES
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.units import Instant


@dataclass(frozen=True, slots=True)
class Batch:
    """The pieces `first` up to but without `last`: what one request asks for at most."""

    first: int
    last: int


@dataclass(slots=True)
class Offer:
    """What one peer announced. `lacking`: for each batch the pieces that it did not announce.

    `whole` and `parts`: the batches missing here that it has all of, and some of.
    """

    bits: Bits
    lacking: "array[int]"
    is_mirror: bool
    whole: dict[int, None] = field(default_factory=dict)
    parts: dict[int, None] = field(default_factory=dict)


class Demand:
    """One release being fetched. `have` stays the host's: it may set bits of stored pieces.

    `asked`: how many requests are in flight for a batch. `mine`: batches known to be owned by me.
    """

    __slots__ = (
        "_batch_of",
        "asked",
        "batches",
        "have",
        "heard_at",
        "holders",
        "is_starving",
        "mine",
        "missing",
        "offers",
        "pieces",
    )

    def __init__(self, pieces: PieceMap, have: Bits, now: Instant) -> None:
        self.pieces = pieces
        self.batches = batches_of(pieces.sizes)
        self.holders = array("L", [0]) * len(self.batches)
        self.offers: dict[PeerId, Offer] = {}
        self.asked: dict[int, int] = {}
        self.mine: dict[int, bool] = {}
        self.heard_at = now
        self.is_starving = False
        self._batch_of = array("L")
        for index, batch in enumerate(self.batches):
            self._batch_of.extend([index] * (batch.last - batch.first))
        self.restart(have)

    def restart(self, have: Bits) -> None:
        """Take the host's word for what is held: a piece may have been lost since."""
        self.have = have
        self.missing = {at: None for at in range(len(self.batches)) if self._is_missing(at)}
        for offer in self.offers.values():
            offer.whole.clear()
            offer.parts.clear()
            for batch in self.missing:
                self._sort(offer, batch)

    def announce_all(self, peer: PeerId, data: bytes, *, is_mirror: bool) -> bool:
        """`peer` holds the pieces of this bitfield, and no others; whether one is news here.

        Raises:
            Malformed: the bitfield is not of this release's size.
        """
        size = len(self.pieces.sizes)
        if len(data) != (size + 7) // 8:
            raise Malformed("bitfield", wanted=f"{(size + 7) // 8} bytes", got=str(len(data)))
        bits = Bits.from_bytes(data, size)
        # A second bitfield is no news: repeated, it would keep this demand from starving for ever.
        is_first = peer not in self.offers
        self.forget(peer)
        lacking = array("L", (batch.last - batch.first for batch in self.batches))
        offer = self.offers[peer] = Offer(bits, lacking, is_mirror)
        for piece in range(size):
            if bits.has(piece):
                lacking[self._batch_of[piece]] -= 1
        for at in range(len(self.batches)):
            if not is_mirror and not lacking[at]:
                self.holders[at] += 1
        for batch in self.missing:
            self._sort(offer, batch)
        return is_first and bool(offer.whole or offer.parts)

    def announce(self, peer: PeerId, pieces: Iterable[int], *, is_mirror: bool) -> bool:
        """`peer` holds these pieces too; whether one of them is of a batch missing here.

        Raises:
            Malformed: there is no such piece.
        """
        size = len(self.pieces.sizes)
        wrong = next((piece for piece in pieces if not 0 <= piece < size), None)
        if wrong is not None:
            raise Malformed("have", wanted=f"pieces below {size}", got=str(wrong))
        offer = self.offers.get(peer)
        if offer is None:
            lacking = array("L", (batch.last - batch.first for batch in self.batches))
            offer = self.offers[peer] = Offer(Bits(size), lacking, is_mirror)
        is_news = False
        for piece in pieces:
            if not offer.bits.has(piece):
                is_news |= self._add(offer, piece)
        return is_news

    def forget(self, peer: PeerId) -> None:
        """`peer` is gone, with all that it announced."""
        offer = self.offers.pop(peer, None)
        if offer is None or offer.is_mirror:
            return
        for at in range(len(self.batches)):
            if not offer.lacking[at]:
                self.holders[at] -= 1

    def hear(self, now: Instant) -> None:
        """A peer has announced something that is missing here."""
        self.heard_at = now
        self.is_starving = False

    def take(self, pieces: Iterable[int]) -> list[int]:
        """These pieces are held now; the batches that this made whole."""
        touched: dict[int, None] = {}
        for piece in pieces:
            self.have.set(piece)
            touched[self._batch_of[piece]] = None
        ended = [at for at in touched if at in self.missing and not self._is_missing(at)]
        for at in ended:
            del self.missing[at]
            for offer in self.offers.values():
                offer.whole.pop(at, None)
                offer.parts.pop(at, None)
        return ended

    def useful_range(self, at: int, bits: Bits) -> tuple[int, int] | None:
        """The pieces of one request for a batch to a peer that holds `bits`; None: nothing.

        From the first missing piece that it holds up to the last missing one before a gap: a piece
        that it did not announce, or so many bytes that are here that another request is cheaper.
        """
        batch, have = self.batches[at], self.have
        first = last = -1
        gap_bytes = 0
        for piece in range(batch.first, batch.last):
            if not bits.has(piece) or gap_bytes > GAP_BYTES:
                if first >= 0:
                    break
            elif not have.has(piece):
                first = piece if first < 0 else first
                last = piece + 1
                gap_bytes = 0
            elif first >= 0:
                gap_bytes += self.pieces.sizes[piece]
        return (first, last) if first >= 0 else None

    @property
    def is_all_asked(self) -> bool:
        """Whether every missing batch is in flight, and there is one."""
        return bool(self.missing) and all(at in self.asked for at in self.missing)

    def _is_missing(self, at: int) -> bool:
        batch = self.batches[at]
        # From the end: pieces of a range arrive in order, so the last is mostly the missing one.
        return any(not self.have.has(piece) for piece in range(batch.last - 1, batch.first - 1, -1))

    def _add(self, offer: Offer, piece: int) -> bool:
        offer.bits.set(piece)
        at = self._batch_of[piece]
        offer.lacking[at] -= 1
        if not offer.is_mirror and not offer.lacking[at]:
            self.holders[at] += 1
        if at not in self.missing:
            return False
        self._sort(offer, at)
        return True

    def _sort(self, offer: Offer, at: int) -> None:
        batch = self.batches[at]
        if not offer.lacking[at]:
            offer.parts.pop(at, None)
            offer.whole[at] = None
        elif offer.lacking[at] < batch.last - batch.first:
            offer.parts[at] = None


def batches_of(sizes: Iterable[int]) -> tuple[Batch, ...]:
    """Runs of consecutive pieces, each ended by the piece that reaches a bound of limits.py."""
    batches: list[Batch] = []
    first = last = total = 0
    for last, size in enumerate(sizes, start=1):
        total += size
        if total >= BATCH_BYTES or last - first >= BATCH_PIECES_MAX:
            batches.append(Batch(first, last))
            first, total = last, 0
    if first < last:
        batches.append(Batch(first, last))
    return tuple(batches)

"""Which pieces a release has, in which order, and who holds which of them.

The payload of a release is its distinct stored pieces, one after another in order of first use: an
HTTP range on piece borders asks for a run of them.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from firedoor.errors import Malformed
from firedoor.pieces.manifest import Manifest


@dataclass(frozen=True, slots=True)
class PieceMap:
    """The payload of one release. `offsets` has one entry more than `digests`: the end."""

    manifest: str
    digests: tuple[bytes, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    def range_of(self, first: int, last: int) -> tuple[int, int]:
        """The bytes from piece `first` up to but without piece `last`."""
        return self.offsets[first], self.offsets[last]

    def pieces_in(self, start: int, end: int) -> range:
        """The pieces between two byte offsets.

        Raises:
            Malformed: one of them is not a border between pieces, or nothing lies between.
        """
        first, last = bisect_left(self.offsets, start), bisect_left(self.offsets, end)
        borders = self.offsets[first : first + 1] + self.offsets[last : last + 1]
        if borders != (start, end) or first >= last:
            raise Malformed("range", wanted="whole pieces", got=f"{start}-{end}")
        return range(first, last)


def piece_map(manifest_id: str, manifest: Manifest) -> PieceMap:
    """The payload of a release."""
    sizes = {piece.digest: piece.stored for file in manifest.files for piece in file.pieces}
    offsets = tuple(accumulate(sizes.values(), initial=0))
    return PieceMap(manifest_id, tuple(sizes), tuple(sizes.values()), offsets)


class Bits:
    """A set of piece indexes below `size`; the wire form has the lowest index in the top bit."""

    __slots__ = ("_bytes", "count", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._bytes = bytearray((size + 7) // 8)

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> "Bits":
        """The set in a bitfield.

        Raises:
            Malformed: another length, or a bit set past the end.
        """
        bits = cls(size)
        if len(data) != len(bits._bytes):
            raise Malformed("bitfield", wanted=f"{len(bits._bytes)} bytes", got=str(len(data)))
        if size % 8 and data[-1] & (0xFF >> (size % 8)):
            raise Malformed("bitfield", wanted="no bit past the end", got="one")
        bits._bytes[:] = data
        bits.count = int.from_bytes(data, "big").bit_count()
        return bits

    def set(self, index: int) -> None:
        """Add one index."""
        if not self.has(index):
            self._bytes[index >> 3] |= 0x80 >> (index & 7)
            self.count += 1

    def has(self, index: int) -> bool:
        """Whether this index is in the set. An index that cannot be is misuse (IndexError)."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        return bool(self._bytes[index >> 3] & (0x80 >> (index & 7)))

    def to_bytes(self) -> bytes:
        """The bitfield."""
        return bytes(self._bytes)

    def missing(self) -> Iterator[int]:
        """The indexes not in the set, ascending."""
        return (index for index in range(self.size) if not self.has(index))

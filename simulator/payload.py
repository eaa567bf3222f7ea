"""A release to move: pieces without content, told apart by their digests."""

from hashlib import blake2b

from firedoor.pieces.inventory import PieceMap

MANIFEST = "5" * 64


def release(count: int, size: int) -> PieceMap:
    """A release of `count` pieces of `size` bytes; nothing but their order tells them apart."""
    digests = tuple(blake2b(index.to_bytes(4), digest_size=32).digest() for index in range(count))
    offsets = tuple(index * size for index in range(count + 1))
    return PieceMap(MANIFEST, digests, (size,) * count, offsets)

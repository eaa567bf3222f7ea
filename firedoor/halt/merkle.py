"""Merkle trees: many values under one digest, and the short proof that one of them is there.

Leaves and nodes are hashed under different prefixes, so no node passes for a leaf. A root may be a
leaf again in a larger tree: its path then climbs on with the step AGAIN.
Source: RFC 6962, 2.1.
"""

from collections.abc import Sequence
from hashlib import sha256

from firedoor.errors import Malformed

DIGEST_BYTES = 32

# What a step does with the digest so far: take a sibling from that side, or begin as a leaf again.
LEFT, RIGHT, AGAIN = b"l", b"r", b"a"


def leaf(value: bytes) -> bytes:
    """The digest of one value as a leaf."""
    return sha256(b"\x00" + value).digest()


def root_of(values: Sequence[bytes]) -> bytes:
    """The digest over all values, in their order."""
    if not values:
        return sha256(b"").digest()
    return _levels(values)[-1][0]


def paths_of(values: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """For each value the steps from it to `root_of(values)`."""
    levels = _levels(values)[:-1] if values else []
    return [_path(levels, index) for index in range(len(values))]


def climb(value: bytes, path: Sequence[bytes]) -> bytes:
    """The root to which `path` leads from `value`; right if it is the root that was meant.

    Raises:
        Malformed: a step that is none.
    """
    digest = leaf(value)
    for step in path:
        side, sibling = step[:1], step[1:]
        if side == AGAIN and not sibling:
            digest = leaf(digest)
        elif side in {LEFT, RIGHT} and len(sibling) == DIGEST_BYTES:
            digest = _node(sibling, digest) if side == LEFT else _node(digest, sibling)
        else:
            raise Malformed("Merkle path", wanted="steps", got=step[:40].hex())
    return digest


def _path(levels: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    steps: list[bytes] = []
    for level in levels:
        sibling = index ^ 1
        if sibling < len(level):
            steps.append((LEFT if sibling < index else RIGHT) + level[sibling])
        index //= 2
    return tuple(steps)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _levels(values: Sequence[bytes]) -> list[list[bytes]]:
    """Leaves first. A last one without a sibling goes up as it is, as in RFC 6962's split."""
    levels = [[leaf(value) for value in values]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = [_node(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        levels.append(pairs + below[len(below) - len(below) % 2 :])
    return levels

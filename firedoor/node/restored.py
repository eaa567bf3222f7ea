"""What an earlier run of a node has recorded, as it is taken back at a start."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """The records of orders and of the last beacon, and ids.

    `acted`: of what lifts and has begun to; `forgotten`: of what a compaction left out since it was
    recorded; `vouched`: for what this node, a witness, has signed; `decided`: records of what halts
    reach here; `known`: of releases that a halt names.
    """

    orders: tuple[bytes, ...] = ()
    beacon: bytes = b""
    acted: tuple[bytes, ...] = ()
    forgotten: Collection[bytes] = ()
    vouched: Collection[bytes] = ()
    decided: tuple[bytes, ...] = ()
    known: tuple[bytes, ...] = ()

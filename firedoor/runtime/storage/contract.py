"""The port of a piece store: the calls that the host and the agent make of one.

piece_store.py keeps pieces in a folder. Another store (of objects, say) keeps this contract and
passes tests/unit/firedoor/runtime/storage/test_contract.py.
"""

from collections.abc import Iterable
from typing import Protocol


class PieceStorage(Protocol):
    """Stored pieces by digest; every call blocks, so callers use a thread."""

    def put(self, digest: bytes, stored: bytes) -> None:
        """Keep a piece.

        Raises:
            Untrusted: these are not the bytes of `digest`; nothing was kept.
            NoRoom: there is no room.
        """

    def get(self, digest: bytes) -> bytes | None:
        """The piece, verified at this reading; None if it is not here, or is damaged."""

    def has(self, digest: bytes) -> bool:
        """Whether something is kept under this digest; it is verified when it is read."""

    def make_sure_of_room(self, size: int) -> None:
        """Nothing, if so many bytes more find room; raises NoRoom if not."""

    def remove_all(self, digests: Iterable[bytes]) -> None:
        """Forget these pieces; those that are not here are passed over."""

"""Which pieces of which releases this node holds, and so may be asked for.

It holds no bytes and permits nothing: the host's store has the bytes, node.py asks the brake.
"""

from collections.abc import Iterable

from firedoor.errors import Unavailable
from firedoor.pieces.inventory import Bits, PieceMap


class Holdings:
    """Piece maps and what is held of each, by manifest. The bits are shared with the swarm."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, tuple[PieceMap, Bits]] = {}

    def __contains__(self, manifest: str) -> bool:
        return manifest in self._held

    def hold(self, pieces: PieceMap, have: Bits) -> None:
        """A release is known, and these of its pieces are here."""
        self._held[pieces.manifest] = (pieces, have)

    def add(self, manifest: str, pieces: Iterable[int]) -> None:
        """More pieces of a release are here; an unknown one is ignored."""
        held = self._held.get(manifest)
        if held is not None:
            for piece in pieces:
                held[1].set(piece)

    def forget(self, manifest: str) -> None:
        """What was held of a release is not sure any more."""
        self._held.pop(manifest, None)

    def pieces_of(self, manifest: str) -> PieceMap:
        """The piece map of a release; KeyError when it is not known."""
        return self._held[manifest][0]

    def of_none_but(self, manifest: str) -> frozenset[bytes]:
        """The pieces held for this release that no other release here has."""
        held = self._held.get(manifest)
        mine = frozenset(held[0].digests) if held is not None else frozenset()
        others = [pieces for name, (pieces, _) in self._held.items() if name != manifest]
        return mine.difference(*(pieces.digests for pieces in others))

    def bitfield(self, manifest: str) -> bytes:
        """What is held of a release as it travels; KeyError when it is not known."""
        return self._held[manifest][1].to_bytes()

    def is_whole(self, manifest: str) -> bool:
        """Whether every piece of a release is here; one of empty files and links has none."""
        have, total = self.progress(manifest)
        return manifest in self._held and have == total

    def progress(self, manifest: str) -> tuple[int, int]:
        """How many pieces of a release are held here, of how many; (0, 0) when unknown."""
        held = self._held.get(manifest)
        return (held[1].count, len(held[0].digests)) if held else (0, 0)

    def digests(self, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests of the pieces between two byte offsets of a release's payload.

        Raises:
            KeyError: no such release is held here.
            Malformed: these are not whole pieces.
            Unavailable: not all of them are here.
        """
        pieces, have = self._held[manifest]
        asked = pieces.pieces_in(start, end)
        if not all(have.has(piece) for piece in asked):
            raise Unavailable("pieces", why="not all of that range is held here")
        return tuple(pieces.digests[piece] for piece in asked)

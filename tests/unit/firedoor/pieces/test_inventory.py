"""A release's payload has borders, and a bitfield has exactly as many bits as pieces."""

import pytest

from firedoor.errors import Malformed
from firedoor.pieces.inventory import Bits, PieceMap, piece_map
from firedoor.pieces.manifest import FileEntry, Manifest, Piece

A, B, C = (Piece(bytes([n]) * 32, 10 * n, 10 * n, is_packed=False) for n in (1, 2, 3))


def mapped(*files: tuple[Piece, ...]) -> PieceMap:
    entries = tuple(
        FileEntry(str(number), 0o644, sum(piece.raw for piece in pieces), bytes(32), pieces)
        for number, pieces in enumerate(files)
    )
    return piece_map("f" * 64, Manifest("app", "1", 1, "team", "files", entries, bytes(32)))


def test_the_payload_is_each_piece_once_in_order_of_first_use() -> None:
    found = mapped((B, A), (), (B, C, A))
    assert found.digests == (B.digest, A.digest, C.digest)
    assert found.sizes == (20, 10, 30)
    assert found.offsets == (0, 20, 30, 60)
    assert found.manifest == "f" * 64


def test_a_release_of_empty_files_has_an_empty_payload() -> None:
    found = mapped((), ())
    assert (found.digests, found.sizes, found.offsets) == ((), (), (0,))


def test_a_run_of_pieces_is_a_range_of_bytes_and_back() -> None:
    found = mapped((B, A, C))
    assert found.range_of(0, 3) == (0, 60)
    assert found.range_of(1, 2) == (20, 30)
    assert found.pieces_in(0, 60) == range(3)
    assert found.pieces_in(20, 30) == range(1, 2)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (0, 19), (1, 20), (30, 20), (-1, 20), (0, 61), (60, 60), (60, 90), (-20, -10)],
)
def test_a_range_off_the_borders_is_refused(start: int, end: int) -> None:
    with pytest.raises(Malformed):
        mapped((B, A, C)).pieces_in(start, end)


def test_the_lowest_index_is_the_top_bit() -> None:
    bits = Bits(10)
    bits.set(0)
    bits.set(9)
    bits.set(9)
    assert bits.to_bytes() == b"\x80\x40"
    assert bits.count == 2
    assert list(bits.missing()) == list(range(1, 9))


def test_a_bitfield_survives_its_own_encoding() -> None:
    bits = Bits.from_bytes(b"\xa0\x40", 10)
    assert [bits.has(index) for index in range(10)] == [n in {0, 2, 9} for n in range(10)]
    assert (bits.count, bits.to_bytes()) == (3, b"\xa0\x40")
    assert Bits.from_bytes(b"", 0).count == 0
    assert Bits.from_bytes(b"\xff", 8).count == 8


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00\x00", b"\x80\x20", b"\x00\x01"])
def test_a_bitfield_of_another_length_or_with_padding_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Bits.from_bytes(data, 10)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_past_the_end_is_our_own_mistake(index: int) -> None:
    with pytest.raises(IndexError):
        Bits(10).has(index)
    with pytest.raises(IndexError):
        Bits(10).set(index)

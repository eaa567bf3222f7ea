"""A piece is verified before it is decoded, and never becomes more bytes than it promised."""

import sys
from dataclasses import replace

import pytest
from blake3 import blake3

from firedoor.errors import Malformed, Untrusted
from firedoor.limits import PIECE_BYTES_MAX, PIECE_BYTES_MIN
from firedoor.pieces.chunking import pack_piece, piece_bytes, unpack_piece
from firedoor.pieces.manifest import Piece
from firedoor.units import KIB, MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOISE = blake3(b"seed").digest(length=64 * KIB)
TEXT = b"the same line again and again\n" * 1000


def packed_as(stored: bytes, raw: int) -> Piece:
    return Piece(blake3(stored).digest(), len(stored), raw, is_packed=True)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (0, PIECE_BYTES_MIN),
        (256 * MIB, PIECE_BYTES_MIN),
        (256 * MIB + 1, 512 * KIB),
        (1024 * MIB + 1, 2 * MIB),
        (4096 * MIB, PIECE_BYTES_MAX),
        (2**50, PIECE_BYTES_MAX),
    ],
)
def test_pieces_grow_with_the_file_within_their_bounds(size: int, wanted: int) -> None:
    assert piece_bytes(size) == wanted


def test_what_packs_well_is_stored_packed_and_comes_back() -> None:
    piece, stored = pack_piece(TEXT)
    assert piece.is_packed
    assert (piece.stored, piece.raw) == (len(stored), len(TEXT))
    assert len(stored) < len(TEXT) / 2
    assert unpack_piece(piece, stored) == TEXT


def test_what_does_not_pack_is_stored_plain() -> None:
    piece, stored = pack_piece(NOISE)
    assert stored == NOISE
    assert piece == Piece(blake3(NOISE).digest(), len(NOISE), len(NOISE), is_packed=False)
    assert unpack_piece(piece, stored) == NOISE


def test_the_largest_piece_comes_back() -> None:
    raw = (NOISE + bytes(64 * KIB)) * (PIECE_BYTES_MAX // (128 * KIB))
    assert len(raw) == PIECE_BYTES_MAX
    piece, stored = pack_piece(raw)
    assert piece.is_packed
    assert unpack_piece(piece, stored) == raw


def test_other_bytes_are_refused_before_they_are_decoded() -> None:
    piece, stored = pack_piece(TEXT)
    for bad in (b"no frame at all", stored[:-1], stored + b"\0", b""):
        with pytest.raises(Untrusted):
            unpack_piece(piece, bad)


@pytest.mark.parametrize("raw", [len(TEXT) - 1, len(TEXT) + 1, 1])
def test_a_piece_that_is_not_as_long_as_promised_is_refused(raw: int) -> None:
    _, stored = pack_piece(TEXT)
    with pytest.raises(Malformed):
        unpack_piece(packed_as(stored, raw), stored)


def test_a_frame_that_ends_early_or_has_a_tail_is_refused() -> None:
    frame = zstd.compress(TEXT)
    packer = zstd.ZstdCompressor()
    unended = packer.compress(TEXT, packer.FLUSH_BLOCK)
    for stored in (unended, frame[:-1], frame + b"\0", frame + frame, b"no frame"):
        with pytest.raises(Malformed):
            unpack_piece(packed_as(stored, len(TEXT)), stored)


def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    packer = zstd.ZstdCompressor(options=options)
    # Flushed in two steps the frame does not know its size, so its header names the whole window.
    stored = packer.compress(TEXT, packer.FLUSH_BLOCK) + packer.flush()
    assert zstd.decompress(stored) == TEXT
    with pytest.raises(Malformed):
        unpack_piece(packed_as(stored, len(TEXT)), stored)


def test_a_plain_piece_is_not_decoded() -> None:
    piece, stored = pack_piece(zstd.compress(NOISE))
    assert not piece.is_packed
    assert unpack_piece(piece, stored) == stored
    with pytest.raises(Malformed):
        unpack_piece(replace(piece, is_packed=True), stored)

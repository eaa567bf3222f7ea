"""Pieces from bytes and bytes from pieces.

Fixed-size slices: content-defined ones save nothing on recompiled programs (pieces/README.md). A
piece is named by the digest of what is stored and moved, so it is verified before it is decoded.
"""

import sys
from typing import Any

from blake3 import blake3

from firedoor.errors import Malformed, Untrusted
from firedoor.limits import PIECE_BYTES_MAX, PIECE_BYTES_MIN
from firedoor.pieces.manifest import Piece

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# 230 MB/s in and 730 out here; higher levels cost the publisher more than the branch saves.
_LEVEL = 3

# A piece that packs worse than this is stored plain: its reader then skips the decoder.
_PACKED_SHARE_MAX = 0.97

# What a frame may ask its reader to allocate: the largest piece, not the 128 MiB zstd would allow.
_WINDOW_LOG_MAX = PIECE_BYTES_MAX.bit_length() - 1

# A file has about this many pieces at most, until they reach their largest size.
_PIECES_WANTED = 1024


def piece_bytes(file_size: int) -> int:
    """The piece size for a file: a power of two from 256 KiB to 4 MiB."""
    size = PIECE_BYTES_MIN
    while size < PIECE_BYTES_MAX and file_size > size * _PIECES_WANTED:
        size *= 2
    return size


def pack_piece(raw: bytes) -> tuple[Piece, bytes]:
    """The piece of `raw` and the bytes that are stored for it."""
    packed: bytes = zstd.compress(raw, _LEVEL)
    is_packed = len(packed) < len(raw) * _PACKED_SHARE_MAX
    stored = packed if is_packed else raw
    return Piece(blake3(stored).digest(), len(stored), len(raw), is_packed), stored


def unpack_piece(piece: Piece, stored: bytes) -> bytes:
    """The raw bytes of a piece.

    Raises:
        Untrusted: `stored` has another digest; nothing of it was decoded.
        Malformed: it does not decode to exactly `piece.raw` bytes.
    """
    digest = blake3(stored).digest()
    if digest != piece.digest:
        raise Untrusted("piece", wanted=piece.digest.hex()[:12], got=digest.hex()[:12])
    if not piece.is_packed:
        return stored
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    decoder: Any = zstd.ZstdDecompressor(options=options)
    try:
        # One byte more than promised is enough to know; never what a bomb would like.
        raw: bytes = decoder.decompress(stored, piece.raw + 1)
    except zstd.ZstdError as error:
        raise Malformed("piece", wanted="a zstd frame", got=str(error)) from error
    if len(raw) != piece.raw or not decoder.eof or decoder.unused_data:
        raise Malformed("piece", wanted=f"one frame of {piece.raw} bytes", got=str(len(raw)))
    return raw

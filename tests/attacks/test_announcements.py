"""What one key file announces for upload, be it a publisher's, a halt key's or an operator's."""

from pathlib import Path

import pytest

from firedoor.identity import PeerId
from firedoor.limits import PIECES_MAX
from firedoor.pieces.chunking import pack_piece
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.units import Instant
from mirror.origin.incoming import Incoming

HONEST, THIEF = PeerId("1" * 32), PeerId("2" * 32)
NOW = Instant(0.0)


@pytest.mark.slow
def test_what_one_key_announces_forgets_no_other_publisher_s_upload(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "incoming", PieceStore(tmp_path / "pieces"))
    pieces = [pack_piece(bytes([number]) * 100) for number in range(3)]
    incoming.announce(HONEST, [piece.digest for piece, _ in pieces], NOW)
    incoming.put(HONEST, pieces[0][0].digest, pieces[0][1], NOW)
    # One request of 34 MB; no piece of it is ever brought.
    incoming.announce(THIEF, (number.to_bytes(32, "big") for number in range(PIECES_MAX)), NOW)
    # The honest publish goes on where it was.
    incoming.put(HONEST, pieces[1][0].digest, pieces[1][1], NOW)
    assert incoming.holds(HONEST, pieces[0][0].digest)

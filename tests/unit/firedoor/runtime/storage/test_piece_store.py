"""The store hands out verified bytes or none, whatever a crash or a full disk left behind."""

import errno
import os
from pathlib import Path

import pytest
from blake3 import blake3

from firedoor.errors import NoRoom, Untrusted
from firedoor.runtime.storage.piece_store import PieceStore

DATA = b"a stored piece"
DIGEST = blake3(DATA).digest()


def path_in(folder: Path) -> Path:
    return folder / DIGEST.hex()[:2] / DIGEST.hex()[2:]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_kept_piece_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)
    assert not store.has(DIGEST)
    assert store.get(DIGEST) is None
    store.put(DIGEST, DATA)
    store.put(DIGEST, DATA)
    for each in (store, PieceStore(tmp_path)):
        assert each.has(DIGEST)
        assert each.get(DIGEST) == DATA
    assert files_in(tmp_path) == [path_in(tmp_path)]


def test_bytes_with_another_digest_are_refused_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(Untrusted):
        PieceStore(tmp_path).put(DIGEST, DATA + b"!")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("left", [b"", DATA[:-1], DATA + b"!"])
def test_a_piece_damaged_before_the_start_is_not_believed(tmp_path: Path, left: bytes) -> None:
    PieceStore(tmp_path).put(DIGEST, DATA)
    path_in(tmp_path).write_bytes(left)
    store = PieceStore(tmp_path)
    assert not store.has(DIGEST)
    assert store.get(DIGEST) is None
    store.put(DIGEST, DATA)
    assert PieceStore(tmp_path).get(DIGEST) == DATA


def test_a_removed_piece_is_gone(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)
    store.put(DIGEST, DATA)
    store.remove(DIGEST)
    store.remove(DIGEST)
    assert not store.has(DIGEST)
    assert store.get(DIGEST) is None


def test_what_a_crash_left_half_written_is_removed_at_the_start(tmp_path: Path) -> None:
    PieceStore(tmp_path).put(DIGEST, DATA)
    (path_in(tmp_path).parent / ".new-1-1").write_bytes(b"half")
    PieceStore(tmp_path)
    assert files_in(tmp_path) == [path_in(tmp_path)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_is_unavailable_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = PieceStore(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(NoRoom) as caught:
            store.put(DIGEST, DATA)
    assert ("disk is full" in str(caught.value)) == (number == errno.ENOSPC)
    assert files_in(tmp_path) == []
    assert not store.has(DIGEST)

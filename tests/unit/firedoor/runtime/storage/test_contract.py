"""What every piece store keeps: the one in a folder, and any other that is to take its place."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from blake3 import blake3

from firedoor.errors import NoRoom, Untrusted
from firedoor.runtime.storage.contract import PieceStorage
from firedoor.runtime.storage.piece_store import PieceStore


def digest_of(stored: bytes) -> bytes:
    return blake3(stored).digest()


class MemoryStore:
    """The smallest store that keeps the contract."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, bytes] = {}

    def put(self, digest: bytes, stored: bytes) -> None:
        if digest_of(stored) != digest:
            raise Untrusted("piece", wanted=digest.hex()[:12], got=digest_of(stored).hex()[:12])
        self._pieces[digest] = stored

    def get(self, digest: bytes) -> bytes | None:
        return self._pieces.get(digest)

    def has(self, digest: bytes) -> bool:
        return digest in self._pieces

    def make_sure_of_room(self, size: int) -> None:
        if size > 1 << 40:
            raise NoRoom("memory", why="it has less")

    def remove_all(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            self._pieces.pop(digest, None)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PieceStorage:
    return PieceStore(tmp_path / "pieces") if request.param == "folder" else MemoryStore()


def test_what_was_put_is_got(store: PieceStorage) -> None:
    digest = digest_of(b"piece")
    assert not store.has(digest)
    assert store.get(digest) is None
    store.put(digest, b"piece")
    store.put(digest, b"piece")
    assert store.has(digest)
    assert store.get(digest) == b"piece"


def test_other_bytes_than_those_of_the_digest_are_refused_and_not_kept(
    store: PieceStorage,
) -> None:
    digest = digest_of(b"piece")
    with pytest.raises(Untrusted):
        store.put(digest, b"another")
    assert not store.has(digest)


def test_removing_passes_over_what_is_not_here(store: PieceStorage) -> None:
    here, gone = digest_of(b"here"), digest_of(b"gone")
    store.put(here, b"here")
    store.remove_all([here, gone])
    assert store.get(here) is None


def test_more_than_there_is_room_for_is_said_before_it_is_fetched(store: PieceStorage) -> None:
    store.make_sure_of_room(1)
    with pytest.raises(NoRoom):
        store.make_sure_of_room(1 << 60)

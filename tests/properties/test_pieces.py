"""Pieces, payloads, bitfields and trees agree with stupid twins, whatever goes in."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from firedoor.errors import Malformed
from firedoor.pieces.chunking import pack_piece, piece_bytes, unpack_piece
from firedoor.pieces.inventory import Bits, piece_map
from firedoor.pieces.manifest import (
    FileEntry,
    Manifest,
    Piece,
    content_digest,
    decode_manifest,
    encode_manifest,
)
from firedoor.runtime.storage.tree import read_tree, write_tree

names = st.text("ab", min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=200) | st.binary(max_size=20).map(lambda part: part * 50)
trees = st.dictionaries(paths, contents, min_size=1, max_size=8).filter(
    lambda tree: not any(other.startswith(f"{path}/") for path in tree for other in tree)
)

# Few digests, so that releases share pieces; a digest has one size.
pieces = st.integers(1, 9).map(lambda n: Piece(bytes([n]) * 32, n * 10, n * 10, is_packed=False))
files_of_pieces = st.lists(st.lists(pieces, max_size=6), max_size=6)


def a_manifest(files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest("app", "1.0", 1, "team", "files", files, content_digest(files))


def made_of(files: list[list[Piece]]) -> Manifest:
    entries = tuple(
        FileEntry(str(number), 0o644, sum(piece.raw for piece in each), bytes(32), tuple(each))
        for number, each in enumerate(files)
    )
    return a_manifest(entries)


@given(contents.filter(len))
def test_a_packed_piece_unpacks_to_what_it_was(raw: bytes) -> None:
    piece, stored = pack_piece(raw)
    assert (piece.stored, piece.raw) == (len(stored), len(raw))
    assert piece.digest == blake3(stored).digest()
    assert piece.stored <= piece.raw
    assert unpack_piece(piece, stored) == raw


@given(st.integers(0, 2**50))
def test_a_piece_size_is_the_least_of_five_that_makes_1024_pieces(size: int) -> None:
    sizes = [2**power for power in range(18, 23)]
    twin = next((each for each in sizes if each * 1024 >= size), sizes[-1])
    assert piece_bytes(size) == twin


@given(files_of_pieces)
def test_a_payload_is_the_distinct_pieces_joined(files: list[list[Piece]]) -> None:
    found = piece_map("f" * 64, made_of(files))
    twin: list[Piece] = []
    for piece in (piece for each in files for piece in each):
        if piece not in twin:
            twin.append(piece)
    payload = b"".join(piece.digest[:1] * piece.stored for piece in twin)
    assert found.digests == tuple(piece.digest for piece in twin)
    for index, piece in enumerate(twin):
        start, end = found.range_of(index, index + 1)
        assert payload[start:end] == piece.digest[:1] * piece.stored
    assert found.offsets[-1] == len(payload)


@given(files_of_pieces, st.integers(-10, 300), st.integers(-10, 300))
def test_exactly_the_ranges_of_whole_pieces_are_taken(
    files: list[list[Piece]], start: int, end: int
) -> None:
    found = piece_map("f" * 64, made_of(files))
    count = len(found.digests)
    runs = [range(first, last) for last in range(count + 1) for first in range(last)]
    twin = {found.range_of(run.start, run.stop): run for run in runs}
    if (start, end) in twin:
        assert found.pieces_in(start, end) == twin[start, end]
    else:
        with pytest.raises(Malformed):
            found.pieces_in(start, end)
    assert all(found.pieces_in(*borders) == run for borders, run in twin.items())


@given(st.integers(0, 40), st.data())
def test_a_bitfield_is_a_set_of_indexes(size: int, data: st.DataObject) -> None:
    indexes = data.draw(st.lists(st.integers(0, size - 1)) if size else st.just([]))
    bits = Bits(size)
    twin: set[int] = set()
    for index in indexes:
        bits.set(index)
        twin.add(index)
        assert bits.count == len(twin)
    again = Bits.from_bytes(bits.to_bytes(), size)
    for each in (bits, again):
        assert {index for index in range(size) if each.has(index)} == twin
        assert list(each.missing()) == sorted(set(range(size)) - twin)
        assert each.count == len(twin)
    text = "".join("1" if index in twin else "0" for index in range(size))
    padded = text.ljust(-(-size // 8) * 8, "0")
    assert "".join(f"{byte:08b}" for byte in bits.to_bytes()) == padded


@given(st.binary(max_size=4), st.integers(0, 40))
def test_a_bitfield_has_one_form(data: bytes, size: int) -> None:
    text = "".join(f"{byte:08b}" for byte in data)
    is_right = len(data) == -(-size // 8) and "1" not in text[size:]
    if is_right:
        assert Bits.from_bytes(data, size).to_bytes() == data
    else:
        with pytest.raises(Malformed):
            Bits.from_bytes(data, size)


@given(trees, st.randoms())
def test_the_content_digest_tells_trees_apart_and_ignores_order(
    tree: dict[str, bytes], dice: Random
) -> None:
    files = [
        FileEntry(path, 0o644, len(content), blake3(content).digest())
        for path, content in tree.items()
    ]
    shuffled = files.copy()
    dice.shuffle(shuffled)
    assert content_digest(shuffled) == content_digest(files)
    assert content_digest(files[1:]) != content_digest(files)


@pytest.mark.slow
@given(trees)
def test_a_tree_survives_reading_signing_and_writing(tree: dict[str, bytes]) -> None:
    stored: dict[bytes, bytes] = {}
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        for path, content in tree.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
        files = read_tree(source, lambda piece, data: stored.update({piece.digest: data}))
        manifest = decode_manifest(encode_manifest(a_manifest(files)))
        write_tree(manifest, stored.get, old={}, target=target, may_go_on=lambda: None)
        found = {
            path.relative_to(target).as_posix(): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file()
        }
    assert found == tree

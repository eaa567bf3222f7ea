"""A bent manifest parses to a tree that is safe, or is refused by name; nothing else happens."""

from contextlib import suppress

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from firedoor.errors import Malformed, TooLarge
from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.inventory import piece_map
from firedoor.pieces.manifest import (
    FileEntry,
    Manifest,
    check_tree,
    content_digest,
    decode_manifest,
    encode_manifest,
)
from firedoor.wire.codec import pack, unpack


def a_file(path: str, content: bytes) -> FileEntry:
    pieces = (pack_piece(content)[0],) if content else ()
    return FileEntry(path, 0o644, len(content), blake3(content).digest(), pieces)


FILES = (
    a_file("bin/run", b"line\n" * 100),
    a_file("etc/empty", b""),
    FileEntry("now", 0o777, 3, blake3(b"bin").digest(), (), "bin"),
)
VALID = encode_manifest(
    Manifest("app", "1.0", 7, "team", "files", FILES, content_digest(FILES), ("true",))
)

spots = st.integers(0, len(VALID) - 1)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8)
) | st.binary(max_size=40)
odd_paths = st.text("ab./\\:\0 AéÉ\u0301", max_size=8)


def taken(data: bytes) -> None:
    """Refused by one of the declared errors, or a manifest that has one form and a payload."""
    with suppress(Malformed, TooLarge):
        manifest = decode_manifest(data)
        check_tree(manifest.files)
        assert decode_manifest(encode_manifest(manifest)) == manifest
        assert content_digest(manifest.files) == manifest.content
        assert piece_map("f" * 64, manifest).offsets[-1] >= 0


def every_place(value: object) -> list[tuple[object, object]]:
    """Each (container, key) in a tree of lists and maps."""
    places: list[tuple[object, object]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else []
        keys = list(range(len(holder))) if isinstance(holder, list) else keys
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]  # type: ignore[index]  # a dict or a list
    return places


@given(st.lists(st.tuples(spots, st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_refused_by_name_or_parse(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for spot, byte in changes:
        data[spot] = byte
    taken(bytes(data))


@given(spots, spots, st.binary(max_size=8))
def test_bytes_cut_out_or_put_in_are_refused_by_name_or_parse(
    start: int, end: int, more: bytes
) -> None:
    taken(VALID[:start] + more + VALID[end:])


@given(st.integers(0, 10_000), values)
def test_a_changed_field_is_refused_by_name_or_parses(number: int, value: object) -> None:
    table = unpack(VALID, what="manifest", limit=len(VALID))
    places = every_place(table)
    holder, key = places[number % len(places)]
    holder[key] = value  # type: ignore[index]  # a dict or a list
    taken(pack(table))


@given(st.lists(odd_paths | st.sampled_from(["a", "a/b", "b/a", "A"]), max_size=4), odd_paths)
def test_whatever_paths_it_has_what_parses_stays_in_its_folder(
    paths: list[str], target: str
) -> None:
    text = target.encode()
    link = FileEntry("b/link", 0o777, len(text), blake3(text).digest(), (), target)
    files = (*(a_file(path, b"x") for path in paths), link)
    manifest = Manifest("app", "1.0", 7, "team", "files", files, content_digest(files))
    with suppress(Malformed):
        found = decode_manifest(encode_manifest(manifest))
        seen = [file.path.casefold() for file in found.files]
        assert len(set(seen)) == len(seen)
        for path in seen:
            assert not set(path.split("/")) & {"", ".", ".."}
            assert not any(other.startswith(f"{path}/") for other in seen)
        depth = 1
        for part in target.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            assert depth >= 0
        assert not target.startswith("/")


def test_every_proper_beginning_is_refused() -> None:
    for end in range(len(VALID)):
        with pytest.raises(Malformed):
            decode_manifest(VALID[:end])

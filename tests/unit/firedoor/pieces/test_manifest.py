"""A manifest is whole, safe on every system and means one tree, or it is refused by name."""

from dataclasses import replace
from hashlib import sha256

import pytest
from blake3 import blake3

from firedoor.errors import Malformed, TooLarge
from firedoor.limits import MANIFEST_BYTES_MAX, PATH_BYTES_MAX, PIECE_BYTES_MAX
from firedoor.pieces import manifest as module
from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.manifest import (
    FileEntry,
    Manifest,
    Piece,
    check_tree,
    content_digest,
    decode_manifest,
    encode_manifest,
    manifest_id,
)
from firedoor.wire.codec import encode, pack, unpack


def a_file(path: str, content: bytes = b"x", mode: int = 0o644) -> FileEntry:
    pieces = (pack_piece(content)[0],) if content else ()
    return FileEntry(path, mode, len(content), blake3(content).digest(), pieces)


def a_link(path: str, target: str) -> FileEntry:
    text = target.encode()
    return FileEntry(path, 0o777, len(text), blake3(text).digest(), (), target)


def a_manifest(*files: FileEntry) -> Manifest:
    return Manifest("app", "1.0", 1, "team", "files", files, content_digest(files))


PLAIN = a_manifest(a_file("bin/run", b"#!\n", 0o755), a_file("empty", b""), a_link("now", "bin"))


def test_a_manifest_survives_its_own_encoding() -> None:
    assert decode_manifest(encode_manifest(PLAIN)) == PLAIN


def test_a_manifest_is_named_by_the_sha256_of_its_bytes() -> None:
    assert manifest_id(b"abc") == sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", ".", "..", "C:/a", "a\\b"),
        *("nul\0byte", "line\nbreak", "ends in dot.", "ends in blank ", "a./b", "what?", "a:b"),
        *("x" * (PATH_BYTES_MAX + 1), "é" * PATH_BYTES_MAX, "/".join(["d"] * 65)),
    ],
)
def test_a_path_that_is_not_plain_everywhere_is_refused(path: str) -> None:
    with pytest.raises(Malformed):
        decode_manifest(encode(a_manifest(a_file(path))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("a", "a"), ("some/file", "some/file"), ("README", "readme"), ("straße", "STRASSE")),
        *(
            ("caf\u00e9", "cafe\u0301"),
            ("a", "a/b"),
            ("A", "a/b"),
            ("a", "A/b"),
            ("Dir/a", "dir/b"),
        ),
    ],
)
def test_two_paths_that_may_be_one_place_are_refused(one: str, other: str) -> None:
    for files in ((a_file(one), a_file(other)), (a_file(other), a_file(one))):
        with pytest.raises(Malformed, match="path"):
            decode_manifest(encode(a_manifest(*files)))


@pytest.mark.parametrize(
    "target", ["/etc", "../..", "../../x", "a/../../..", "\\x", "c:x", "nul\0byte", "self", "./b"]
)
def test_a_link_that_leaves_the_tree_or_passes_a_link_is_refused(target: str) -> None:
    with pytest.raises(Malformed):
        check_tree((a_file("sub/a"), a_link("sub/b", "a"), a_link("sub/self", target)))


def test_a_link_past_another_is_refused_whatever_its_case() -> None:
    with pytest.raises(Malformed, match="past no other link"):
        check_tree((a_link("Here", "sub"), a_link("x", "HERE/y"), a_file("sub/y")))


def test_a_path_below_a_link_is_refused() -> None:
    with pytest.raises(Malformed):
        check_tree((a_link("out", "sub"), a_file("sub/a"), a_file("out/b")))


@pytest.mark.parametrize("target", ["a", "./a", "../sub/a", "..//sub/a", "..", "missing"])
def test_a_link_inside_the_tree_is_taken(target: str) -> None:
    check_tree((a_file("sub/a"), a_link("sub/b", target)))


def test_a_link_with_pieces_or_another_targets_digest_is_refused() -> None:
    link = a_link("b", "a")
    for bad in (
        replace(link, pieces=a_file("a").pieces),
        replace(link, size=2),
        replace(link, link="c"),
    ):
        with pytest.raises(Malformed):
            check_tree((bad,))


def test_sizes_that_do_not_add_up_are_refused() -> None:
    file = a_file("a", b"four")
    (piece,) = file.pieces
    plain_but_short = replace(piece, stored=3)
    for bad in (
        replace(file, size=5),
        replace(file, pieces=()),
        replace(file, pieces=(piece, piece)),
        replace(file, pieces=(plain_but_short,)),
    ):
        with pytest.raises(Malformed):
            check_tree((bad,))


def test_one_piece_with_two_stored_sizes_is_refused() -> None:
    one = FileEntry("a", 0o644, 9, bytes(32), (Piece(bytes(32), 3, 9, is_packed=True),))
    other = replace(one, path="b", pieces=(Piece(bytes(32), 4, 9, is_packed=True),))
    with pytest.raises(Malformed, match="one stored size"):
        check_tree((one, other))


@pytest.mark.parametrize("change", [{"stored": PIECE_BYTES_MAX + 1}, {"raw": 0}, {"digest": b"x"}])
def test_a_piece_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    file = a_file("a")
    (piece,) = file.pieces
    bad = replace(file, pieces=(replace(piece, **change),))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(Malformed):
        decode_manifest(encode(a_manifest(bad)))


@pytest.mark.parametrize(
    "change",
    [
        *({"product": "../app"}, {"version": "a/b"}, {"handler": ""}, {"publisher": "\x1b[2J"}),
        *({"counter": 0}, {"format": 2}, {"checks": ("true",) * 17}, {"content": bytes(32)}),
    ],
)
def test_a_manifest_with_a_bad_field_is_refused(change: dict[str, object]) -> None:
    bad = replace(PLAIN, **change)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(Malformed):
        decode_manifest(encode_manifest(bad))


@pytest.mark.parametrize("mode", [0o1000, 0o4755])
def test_a_mode_beyond_the_permission_bits_is_refused(mode: int) -> None:
    with pytest.raises(Malformed):
        decode_manifest(encode(a_manifest(a_file("a", mode=mode))))


def test_an_unknown_field_at_any_depth_is_refused() -> None:
    table = unpack(encode_manifest(PLAIN), what="manifest", limit=10_000)
    assert isinstance(table, dict)
    for place in (table, table["files"][0], table["files"][0]["pieces"][0]):
        place["more"] = 1
        with pytest.raises(Malformed):
            decode_manifest(pack(table))
        del place["more"]
    assert decode_manifest(pack(table)) == PLAIN


def test_too_many_bytes_or_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge):
        decode_manifest(bytes(MANIFEST_BYTES_MAX + 1))
    monkeypatch.setattr(module, "PIECES_MAX", 1)
    with pytest.raises(TooLarge):
        check_tree((a_file("a"), a_file("b")))


def test_a_tail_or_a_missing_byte_is_refused() -> None:
    data = encode_manifest(PLAIN)
    for bad in (data + b"\0", data[:-1], b""):
        with pytest.raises(Malformed):
            decode_manifest(bad)


def test_the_content_digest_depends_on_the_tree_and_on_nothing_else() -> None:
    one, two = a_file("a", b"1"), a_file("b", b"2")
    content = content_digest((one, two))
    assert content_digest((two, one)) == content
    others = [
        (one,),
        (replace(one, path="c"), two),
        (replace(one, mode=0o755), two),
        (replace(one, digest=two.digest), two),
        (replace(one, size=2), two),
        (a_link("a", "1"), two),
    ]
    digests = {content_digest(files) for files in others}
    assert len(digests) == len(others)
    assert content not in digests
    assert a_manifest(one, two).content == content

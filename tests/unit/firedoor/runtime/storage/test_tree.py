"""A tree is read and written without loss, and nothing half-made or unsafe is left behind."""

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from firedoor.errors import Halted, Malformed, Unavailable, Untrusted
from firedoor.limits import GATE_BYTES, PIECE_BYTES_MIN
from firedoor.pieces.manifest import FileEntry, Manifest, Piece, content_digest
from firedoor.runtime.storage.tree import read_tree, write_tree

NOISE = blake3(b"noise").digest(length=PIECE_BYTES_MIN + 1000)


class Shelf:
    """Stored pieces in memory."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.asked = 0

    def sink(self, piece: Piece, stored: bytes) -> None:
        self.stored[piece.digest] = stored

    def get(self, digest: bytes) -> bytes | None:
        self.asked += 1
        return self.stored.get(digest)


def go_on() -> None:
    """No brake."""


def halted_after(steps: int) -> Callable[[], None]:
    left = iter(range(steps))

    def may_go_on() -> None:
        if next(left, None) is None:
            raise Halted("app", level=3)

    return may_go_on


def a_manifest(files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest("app", "1.0", 1, "team", "files", files, content_digest(files))


def written(
    manifest: Manifest,
    shelf: Shelf,
    target: Path,
    *,
    old: dict[bytes, Path] | None = None,
    may_go_on: Callable[[], None] = go_on,
) -> Path:
    write_tree(manifest, shelf.get, old=old or {}, target=target, may_go_on=may_go_on)
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "bin").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "bin" / "run").write_bytes(b"#!/bin/sh\n" * 100)
    (root / "bin" / "run").chmod(0o750)
    (root / "large").write_bytes(NOISE)
    (root / "nothing").write_bytes(b"")
    (root / "here").symlink_to("bin")
    (root / "bin" / "again").symlink_to("../large")
    return root


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def manifest(source: Path, shelf: Shelf) -> Manifest:
    return a_manifest(read_tree(source, shelf.sink))


def test_a_tree_is_read_in_order_with_only_the_bit_that_matters(manifest: Manifest) -> None:
    found = [(file.path, file.mode, file.size, file.link) for file in manifest.files]
    assert found == [
        ("bin/again", 0o777, 8, "../large"),
        ("bin/run", 0o755, 1000, ""),
        ("here", 0o777, 3, "bin"),
        ("large", 0o644, len(NOISE), ""),
        ("nothing", 0o644, 0, ""),
    ]
    assert [len(file.pieces) for file in manifest.files] == [0, 1, 0, 2, 0]


def test_a_written_tree_reads_as_the_one_it_came_from(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    target = written(manifest, shelf, tmp_path / "deep" / "target")
    assert read_tree(target, Shelf().sink) == manifest.files
    assert (target / "bin" / "again").read_bytes() == NOISE


def test_a_single_file_is_a_release(source: Path, shelf: Shelf) -> None:
    (file,) = read_tree(source / "large", shelf.sink)
    assert (file.path, file.size) == ("large", len(NOISE))


def bind_socket(path: Path) -> None:
    # A socket's path may have 108 bytes at most, and pytest's folders are deep.
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


UNFIT: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda root: os.mkfifo(root / "pipe"),
    "a socket": lambda root: bind_socket(root / "socket"),
    "a link out": lambda root: (root / "out").symlink_to("../elsewhere"),
    "an absolute link": lambda root: (root / "out").symlink_to(root / "plain"),
    "a name in other bytes": lambda root: (root / os.fsdecode(b"\xff")).write_bytes(b"x"),
    "a link in other bytes": lambda root: (root / "link").symlink_to(os.fsdecode(b"\xff")),
    "a name in two cases": lambda root: (root / "PLAIN").write_bytes(b"x"),
    "a name in another Unicode form": lambda root: (root / "cafe\u0301").write_bytes(b"x"),
    "a name that Windows lacks": lambda root: (root / "what?").write_bytes(b"x"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold most of these")
@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_a_release_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for each in ("plain", "caf\u00e9"):
        (root / each).write_bytes(b"x")
    UNFIT[name](root)
    with pytest.raises(Malformed) as caught:
        read_tree(root, Shelf().sink)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root" / "empty").mkdir(parents=True)
    with pytest.raises(Malformed, match="at least one file"):
        read_tree(tmp_path / "root", Shelf().sink)


def test_what_cannot_be_read_is_never_left_out_unsaid(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable):
        read_tree(tmp_path / "missing", Shelf().sink)
    listed = os.scandir

    def scandir(folder: str | Path) -> object:
        if Path(folder).name == "bin":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Unavailable, match="bin"):
        read_tree(source, Shelf().sink)


def test_a_missing_or_bent_piece_leaves_nothing(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    digest = manifest.files[3].pieces[1].digest
    shelf.stored[digest] = b"bent"
    with pytest.raises(Untrusted):
        written(manifest, shelf, tmp_path / "target")
    del shelf.stored[digest]
    with pytest.raises(Unavailable, match=digest.hex()[:12]):
        written(manifest, shelf, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_file_whose_pieces_make_another_is_refused(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    bad = replace(manifest.files[1], digest=bytes(32))
    with pytest.raises(Untrusted, match="bin/run"):
        written(a_manifest((bad,)), shelf, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_halt_stops_it_at_every_step_and_leaves_nothing(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    steps: list[int] = []
    written(manifest, shelf, tmp_path / "whole", may_go_on=lambda: steps.append(0))
    # Once a file, and once for each 64 KiB begun in each piece.
    assert len(steps) == 5 + 1 + PIECE_BYTES_MIN // GATE_BYTES + 1
    for allowed in range(len(steps)):
        with pytest.raises(Halted):
            written(manifest, shelf, tmp_path / "target", may_go_on=halted_after(allowed))
        assert not (tmp_path / "target").exists()


def test_a_target_that_exists_is_left_as_it_is(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_bytes(b"x")
    with pytest.raises(ValueError, match="exists"):
        written(manifest, shelf, tmp_path / "target")
    assert (tmp_path / "target" / "mine").read_bytes() == b"x"


def test_a_full_disk_is_unavailable_and_leaves_nothing(
    manifest: Manifest, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unavailable, match="No space left"):
        written(manifest, shelf, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_here_already_needs_no_piece(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    first = written(manifest, shelf, tmp_path / "first")
    old = {file.digest: first / file.path for file in manifest.files if not file.link}
    again = written(manifest, Shelf(), tmp_path / "second", old=old)
    assert read_tree(again, Shelf().sink) == manifest.files
    assert (again / "large").stat().st_ino != (first / "large").stat().st_ino


@pytest.mark.parametrize("content", [b"", NOISE[:-1], NOISE + b"!", b"!" * len(NOISE), None])
def test_an_old_file_that_changed_falls_back_to_pieces(
    manifest: Manifest, shelf: Shelf, tmp_path: Path, content: bytes | None
) -> None:
    changed = tmp_path / "changed"
    if content is not None:
        changed.write_bytes(content)
    old = {manifest.files[3].digest: changed}
    target = written(manifest, shelf, tmp_path / "target", old=old)
    assert (target / "large").read_bytes() == NOISE


def test_an_old_file_of_whole_steps_that_grew_falls_back_to_pieces(
    shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(GATE_BYTES))
    manifest = a_manifest(read_tree(tmp_path / "file", shelf.sink))
    with (tmp_path / "file").open("ab") as file:
        file.write(b"!")
    old = {manifest.files[0].digest: tmp_path / "file"}
    target = written(manifest, shelf, tmp_path / "target", old=old)
    assert shelf.asked == 1
    assert (target / "file").read_bytes() == bytes(GATE_BYTES)


def test_an_old_file_is_never_read_through_a_link(
    manifest: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "real").write_bytes(NOISE)
    (tmp_path / "link").symlink_to("real")
    old = {manifest.files[3].digest: tmp_path / "link"}
    written(manifest, shelf, tmp_path / "target", old=old)
    assert shelf.asked == 3

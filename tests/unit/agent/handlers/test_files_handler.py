"""Versions stand side by side, the switch is one step, and nobody else's file is touched."""

import sys
from pathlib import Path

import pytest

from agent.handlers.contract import Handler
from agent.handlers.files import FilesHandler
from firedoor.errors import Halted, Malformed, Unavailable
from firedoor.pieces.manifest import Manifest, content_digest, encode_manifest, manifest_id
from firedoor.runtime.storage.tree import read_tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the switch is a link")


class Bench:
    """One product's root and the releases made for it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.handler = FilesHandler(self.root)
        self._folder = folder
        self._stored: dict[bytes, bytes] = {}

    def release(self, version: str, *, counter: int = 1) -> tuple[Manifest, str]:
        source = self._folder / f"source-{version}"
        source.mkdir(exist_ok=True)
        (source / "app").write_text(version)
        files = read_tree(source, lambda piece, stored: self._stored.update({piece.digest: stored}))
        content = content_digest(files)
        manifest = Manifest("app", version, counter, "team", "files", files, content)
        return manifest, manifest_id(encode_manifest(manifest))

    def staged(self, version: str) -> tuple[str, str]:
        manifest, name = self.release(version)
        self.handler.stage(manifest, name, store_get=self._stored.get, may_go_on=lambda: None)
        return version, name

    def running(self) -> str:
        return (self.root / "current" / "app").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_files_handler_keeps_the_contract(bench: Bench) -> None:
    handler: Handler = bench.handler
    assert handler.active() is None
    assert handler.staged() == []


def test_a_staged_release_runs_only_when_it_is_activated(bench: Bench) -> None:
    one, two = bench.staged("1.0"), bench.staged("2.0-rc1")
    assert bench.handler.active() is None
    assert bench.handler.staged() == sorted([one, two])
    for release in (one, two, one, one):
        bench.handler.activate(*release)
        assert bench.handler.active() == release
        assert bench.running() == release[0]
    assert FilesHandler(bench.root).active() == one


def test_staging_twice_is_staging_once(bench: Bench) -> None:
    one = bench.staged("1.0")
    number = (bench.handler.folder_of(*one) / "app").stat().st_ino
    bench.staged("1.0")
    assert (bench.handler.folder_of(*one) / "app").stat().st_ino == number


def test_an_aborted_staging_leaves_nothing(bench: Bench) -> None:
    def halted() -> None:
        raise Halted("app", level=3)

    manifest, name = bench.release("1.0")
    with pytest.raises(Halted):
        bench.handler.stage(manifest, name, store_get=lambda _: None, may_go_on=halted)
    with pytest.raises(Unavailable):
        bench.handler.stage(manifest, name, store_get=lambda _: None, may_go_on=lambda: None)
    assert list((bench.root / "versions").iterdir()) == []


def test_what_a_crash_left_is_no_release_and_is_swept(bench: Bench) -> None:
    _, name = bench.release("1.0")
    half = bench.root / "versions" / f".half-{name}"
    half.mkdir()
    (half / "app").write_text("half")
    (bench.root / ".current-new").symlink_to("versions/half")
    assert bench.handler.staged() == []
    one = bench.staged("1.0")
    assert bench.handler.staged() == [one]
    half.mkdir()
    bench.handler.sweep()
    assert not half.exists()
    bench.handler.activate(*one)
    assert bench.running() == "1.0"


def test_what_is_not_staged_cannot_be_activated(bench: Bench) -> None:
    one = bench.staged("1.0")
    bench.handler.activate(*one)
    with pytest.raises(Malformed):
        bench.handler.activate("1.0", "0" * 64)
    assert bench.handler.active() == one


def test_a_deactivated_product_has_nothing_current_and_can_come_back(bench: Bench) -> None:
    one = bench.staged("1.0")
    bench.handler.deactivate()
    bench.handler.activate(*one)
    bench.handler.deactivate()
    assert bench.handler.active() is None
    assert bench.handler.staged() == [one]
    bench.handler.activate(*one)
    assert bench.running() == "1.0"


def test_the_current_release_is_neither_unstaged_nor_quarantined(bench: Bench) -> None:
    one = bench.staged("1.0")
    bench.handler.activate(*one)
    for remove in (bench.handler.unstage, bench.handler.quarantine):
        with pytest.raises(Malformed):
            remove(*one)
    assert bench.running() == "1.0"


def test_an_unstaged_release_is_gone_even_over_a_half_removed_one(bench: Bench) -> None:
    one = bench.staged("1.0")
    half = bench.root / "versions" / f".half-{one[1]}"
    half.mkdir()
    (half / "left").write_text("x")
    bench.handler.unstage(*one)
    bench.handler.unstage(*one)
    assert list((bench.root / "versions").iterdir()) == []


def test_quarantine_moves_a_release_aside_each_time_and_changes_no_file(bench: Bench) -> None:
    one = bench.staged("1.0")
    file = bench.handler.folder_of(*one) / "app"
    (bench.root / "other name").hardlink_to(file)
    before = file.stat()
    bench.handler.quarantine(*one)
    bench.staged("1.0")
    bench.handler.quarantine(*one)
    bench.handler.quarantine(*one)
    assert bench.handler.staged() == []
    name = f"1.0-{one[1]}"
    kept = sorted(path.name for path in (bench.root / "quarantine").iterdir())
    assert kept == [name, f"{name}.2"]
    after = (bench.root / "quarantine" / name / "app").stat()
    facts = ("st_ino", "st_mode", "st_nlink", "st_mtime_ns", "st_ctime_ns")
    assert [getattr(after, fact) for fact in facts] == [getattr(before, fact) for fact in facts]


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_switch_that_is_somebody_elses_file_is_refused(bench: Bench, *, is_folder: bool) -> None:
    one = bench.staged("1.0")
    mine = bench.root / "current"
    if is_folder:
        mine.mkdir()
    else:
        mine.write_text("mine")
    with pytest.raises(Malformed):
        bench.handler.activate(*one)
    with pytest.raises(Malformed):
        bench.handler.deactivate()
    assert mine.is_dir() == is_folder
    assert bench.handler.active() is None


@pytest.mark.parametrize("target", ["/elsewhere/{}", "{}", "../versions/{}", "versions/nothing"])
def test_a_switch_that_points_elsewhere_is_nothing_of_ours(bench: Bench, target: str) -> None:
    one = bench.staged("1.0")
    (bench.root / "current").symlink_to(target.format(f"1.0-{one[1]}"))
    assert bench.handler.active() is None
    bench.handler.activate(*one)
    assert bench.handler.active() == one


def test_other_files_in_the_root_stay(bench: Bench) -> None:
    (bench.root / "notes").write_text("mine")
    (bench.root / "versions" / "backup").mkdir()
    one = bench.staged("1.0")
    assert bench.handler.staged() == [one]
    bench.handler.sweep()
    bench.handler.unstage(*one)
    assert (bench.root / "notes").read_text() == "mine"
    assert (bench.root / "versions" / "backup").is_dir()

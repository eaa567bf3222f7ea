"""What the boot guard reads, and what it doubts."""

import os
import sys
from pathlib import Path

import pytest

from agent.guard.files import Files
from agent.guard.records import DoubtError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's")


@pytest.fixture
def files() -> Files:
    return Files(frozenset({os.getuid()}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    return path


def test_a_trusted_file_is_read_and_one_that_is_not_there_is_empty(
    files: Files, path: Path, tmp_path: Path
) -> None:
    files.check(path)
    assert files.read(path) == b"content"
    assert files.read(tmp_path / "none") == b""
    with files.blocks(path) as blocks:
        assert (blocks.size, blocks.read(3, 100)) == (7, b"tent")
    with files.blocks(tmp_path / "none") as blocks:
        assert (blocks.size, blocks.read(0, 100)) == (0, b"")


def test_a_file_above_its_limit_is_doubted(files: Files, path: Path) -> None:
    assert files.read(path, limit=7) == b"content"
    with pytest.raises(DoubtError, match="above 6 bytes"):
        files.read(path, limit=6)


def test_a_log_of_more_than_a_gibibyte_is_doubted(files: Files, path: Path) -> None:
    os.truncate(path, (1 << 30) + 1)
    with pytest.raises(DoubtError, match="above"), files.blocks(path):
        pass


def test_a_link_is_named_as_one(files: Files, path: Path, tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(path)
    with pytest.raises(DoubtError, match="is a link"):
        files.check(link)
    with pytest.raises(DoubtError):
        files.read(link)


def test_a_pipe_is_neither_a_file_nor_a_folder(files: Files, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe", 0o600)
    with pytest.raises(DoubtError, match="neither"):
        files.check(pipe)
    with pytest.raises(DoubtError, match="neither"):
        files.read(pipe)


def test_a_folder_is_checked_as_one_and_not_read(files: Files, tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir(0o700)
    files.check(folder)
    with pytest.raises(DoubtError, match="no regular file"):
        files.read(folder)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_can_write_is_doubted(files: Files, path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(DoubtError, match="written by others"):
        files.read(path)


def test_what_belongs_to_nobody_whom_it_trusts_is_doubted(path: Path) -> None:
    with pytest.raises(DoubtError, match="belongs to user"):
        Files(frozenset({os.getuid() + 1})).read(path)

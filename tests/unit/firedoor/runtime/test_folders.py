"""Files and folders that somebody else may have made."""

import os
import re
from pathlib import Path

import pytest

from firedoor.errors import Malformed, TooLarge, Unavailable
from firedoor.runtime.folders import (
    below,
    open_folder,
    read_named,
    read_regular,
    require_regular,
)

ANY = re.compile(".*")


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with open_folder(tmp_path) as folder:
        assert folder.read("file", 5) == b"12345"
        assert folder.read("none", 5) is None
        with pytest.raises(TooLarge):
            folder.read("file", 4)
    assert read_regular(tmp_path / "file", 5) == b"12345"
    assert read_named(tmp_path / "file", 5) == b"12345"


def test_what_grows_while_it_is_read_is_too_large(tmp_path: Path) -> None:
    # Files of proc say that they have no bytes, and have some.
    with pytest.raises(TooLarge):
        read_named(Path("/proc/self/maps"), 100)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device link"])
def test_nothing_but_a_regular_file_is_read_in_a_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    (tmp_path / "secret").write_bytes(b"secret")
    match kind:
        case "link":
            path.symlink_to("secret")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("/dev/zero")
    with open_folder(tmp_path) as folder, pytest.raises((Malformed, Unavailable)):
        folder.read("it", 1000)
    with pytest.raises((Malformed, Unavailable)):
        read_regular(path, 1000)
    with pytest.raises(Malformed):
        require_regular(path)


def test_a_file_that_replaces_a_link_leaves_what_the_link_led_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "it").symlink_to("victim")
    with open_folder(tmp_path) as folder:
        folder.write("it", b"new", 0o600)
        assert folder.read("it", 10) == b"new"
        assert sorted(folder.names(ANY)) == ["it", "victim"]
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "it").stat().st_mode & 0o777 == 0o600


def test_a_write_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with open_folder(tmp_path) as folder, pytest.raises(OSError, match="it"):
        folder.write("it", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


def test_no_link_is_followed_on_the_way_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "home" / "inner").mkdir(parents=True)
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "a").symlink_to("../home")
    with open_folder(stick) as folder:
        for names in (("a",), ("a", "inner")):
            with pytest.raises(OSError, match="a"), below(folder, *names, is_made=True):
                pass
        with below(folder, "none", "deeper") as found:
            assert found is None
        with below(folder, "made", "deeper", is_made=True) as found:
            assert found is not None
            found.write("file", b"x")
    assert (stick / "made" / "deeper" / "file").read_bytes() == b"x"


def test_only_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with open_folder(tmp_path) as folder:
        for name in ("folder", "link", "none"):
            folder.remove(name)
        assert sorted(folder.names(ANY)) == ["file", "folder"]
        assert not folder.is_empty()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "a\\b"])
def test_a_name_that_leads_elsewhere_is_misuse(tmp_path: Path, name: str) -> None:
    with open_folder(tmp_path) as folder, pytest.raises(ValueError, match="single name"):
        folder.read(name, 10)


def test_a_secret_may_come_through_a_pipe_that_somebody_writes_to(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"passphrase\n")
    os.close(writer)
    assert read_named(Path(f"/proc/self/fd/{reader}"), 100) == b"passphrase\n"
    os.close(reader)

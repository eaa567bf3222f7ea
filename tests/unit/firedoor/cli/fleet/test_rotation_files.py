"""Key files of a role while it is turned: what waits, what takes its place, what is left alone."""

import shutil
from pathlib import Path

import pytest

from firedoor.cli.client.origin import chosen_key
from firedoor.cli.fleet.rotation import KeyFiles
from firedoor.errors import Malformed
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from tests.unit.origin_bench import COUNTS, NOW


@pytest.fixture(scope="module")
def new_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fleet = tmp_path_factory.mktemp("made") / "fleet"
    counts = COUNTS | {"releases/main-eu": (1, 1)}
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), counts, None), NOW)
    return fleet


@pytest.fixture
def folder(new_fleet: Path, tmp_path: Path) -> Path:
    shutil.copytree(new_fleet / "keys", tmp_path / "keys")
    return tmp_path / "keys"


def key(folder: Path, name: str) -> KeyFile:
    return read_key_file(folder / f"{name}.key", str)


def test_a_new_key_waits_and_then_takes_its_place(folder: Path) -> None:
    old = key(folder, "halt-1")
    files = KeyFiles(folder, "halt", None, is_closed=False)
    (made,) = files.make(1, key(folder, "root-1"))
    assert key(folder, "halt-1") == old
    assert files.put_in_place() == [made]
    new = key(folder, "halt-1")
    assert new.keyid == made.keyid != old.keyid
    # It can still be used to connect.
    assert (new.tls_seed, new.certificate) == (old.tls_seed, old.certificate)
    (retired,) = (folder / "retired").iterdir()
    assert read_key_file(retired, str) == old
    assert files.waiting() == []


def test_what_waits_is_never_written_over(folder: Path) -> None:
    files = KeyFiles(folder, "root", None, is_closed=False)
    pattern = key(folder, "root-1")
    first = files.make(1, pattern)
    assert KeyFiles(folder, "root", None, is_closed=False).make(1, pattern) == first
    with pytest.raises(Malformed, match=r"root-1\.new\.key"):
        files.make(2, pattern)
    assert files.waiting() == first


def test_files_of_a_run_that_was_cut_between_two_go_in_place_with_the_rest(folder: Path) -> None:
    root = key(folder, "root-1")
    files = KeyFiles(folder, "resume", None, is_closed=False)
    made = files.make(2, root)
    # As far as a cut run came: the old keys retired, the first new one in place.
    (folder / "retired").mkdir()
    for number in (1, 2):
        (folder / f"resume-{number}.key").rename(folder / "retired" / f"resume-{number}.key")
    (folder / "resume-1.new.key").rename(folder / "resume-1.key")
    assert files.put_in_place() == made
    assert [key(folder, f"resume-{number}") for number in (1, 2)] == made
    assert len(list((folder / "retired").iterdir())) == 2


def test_new_keys_need_no_root_key_in_their_folder(folder: Path) -> None:
    root = key(folder, "root-1")
    (folder / "root-1.key").unlink()
    assert len(KeyFiles(folder, "halt", None, is_closed=False).make(1, root)) == 1


def test_a_key_that_waits_is_not_chosen(folder: Path) -> None:
    KeyFiles(folder, "halt", None, is_closed=False).make(1, key(folder, "root-1"))
    assert chosen_key(folder.parent, None, "halt-*.key", None) == key(folder, "halt-1")


def test_a_rotation_leaves_a_publisher_with_a_longer_name_alone(folder: Path) -> None:
    other = key(folder, "releases-main-eu-1")
    files = KeyFiles(folder, "releases/main", None, is_closed=False)
    files.make(1, key(folder, "root-1"))
    files.put_in_place()
    assert key(folder, "releases-main-eu-1") == other


def test_more_keys_than_before_connect_as_the_signer_does(folder: Path) -> None:
    root = key(folder, "root-1")
    files = KeyFiles(folder, "halt", None, is_closed=False)
    files.make(2, root)
    _, second = files.put_in_place()
    assert (second.tls_seed, second.role, second.name) == (root.tls_seed, "halt", "halt-2")


def test_orders_wait_through_a_failed_run(folder: Path) -> None:
    files = KeyFiles(folder, "halt", None, is_closed=False)
    files.remember([b"one"])
    again = KeyFiles(folder, "halt", None, is_closed=False)
    again.remember([b"two", b"one"])
    assert again.remembered() == [b"one", b"two"]
    again.forget()
    assert files.remembered() == []

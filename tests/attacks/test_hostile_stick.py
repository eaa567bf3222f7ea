"""A stick that somebody has prepared: it costs a visit, and never a file of whoever carries it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firedoor.cli.airgap.bundle import Stick
from firedoor.identity import FleetId
from firedoor.wire.stick import Inbound, Outbound
from tests.attacks.ground import (
    Ground,
    Program,
    Said,
    assert_harmless,
    assert_one_sentence,
    firedoor,
    ground,
    make_huge,
)

pytestmark = pytest.mark.slow

# A site that was visited before; its name is an id like any other.
SITE = "5" * 32

FOREIGN = "halt-1.key"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        made.publish("kiosk", "1.0")
        yield made


@pytest.fixture(scope="module")
def lonely(fleet: Ground) -> Program:
    """The mirror of an air-gapped site."""
    mirror = fleet.enrolled("mirror", "lonely", lease="air-gapped")
    mirror.start()
    return mirror


@pytest.fixture(scope="module")
def honest(fleet: Ground) -> Path:
    """A stick that has been at the fleet, and belongs to one site."""
    folder = fleet.folder / "honest"
    assert carry(fleet, folder).code == 0
    stick = Stick(folder, fleet_id(folder))
    stick.keep_outbound(Outbound(SITE, (), ()))
    stick.keep_inbound(SITE, Inbound(None, ()))
    return folder


@pytest.fixture
def stick(honest: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(honest, tmp_path / "stick"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the person who carries the stick has beside it."""
    folder = tmp_path / "home"
    (folder / "ab").mkdir(parents=True)
    for path in (folder / FOREIGN, folder / "ab" / FOREIGN, folder / ("0" * 64)):
        path.write_text("precious", "utf-8")
    return folder


def carry(fleet: Ground, folder: Path, at: Program | None = None) -> Said:
    """Take a stick to a mirror; to the origin, unless another is named."""
    address = (at or fleet.origin).address
    return firedoor("carry", folder, "--key", fleet.key("operator"), "--to", address)


def fleet_id(folder: Path) -> FleetId:
    return FleetId((folder / "fleet").read_text("ascii"))


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def in_place_of(path: Path) -> Path:
    """This name on the stick, free for something else."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def a_manifest(stick: Path) -> str:
    return f"manifests/{next((stick / 'manifests').iterdir()).name}"


def a_piece(stick: Path) -> str:
    path = next((stick / "pieces").glob("*/*"))
    return path.relative_to(stick).as_posix()


def a_fan(stick: Path) -> str:
    """The folder of some pieces that the newest release has."""
    return a_piece(stick).rpartition("/")[0]


def named(name: str) -> Callable[[Path], str]:
    return lambda _: name


# --- links ---------------------------------------------------------------------------------------

FOLDERS: dict[str, Callable[[Path], str]] = {
    "manifests": named("manifests"),
    "pieces": named("pieces"),
    "a folder of pieces": a_fan,
    "sites": named("sites"),
    "a site": named(f"sites/{SITE}"),
}


@pytest.mark.parametrize("place", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_a_stick_that_is_a_link_leads_to_nothing_that_is_changed(
    fleet: Ground, stick: Path, home: Path, place: Callable[[Path], str]
) -> None:
    name = place(stick)
    if name.startswith("sites"):
        # What the site asks lies there too, so that there is an answer to be written.
        shutil.copytree(stick / name, home, dirs_exist_ok=True)
        next(home.rglob("inbound")).write_text("precious", "utf-8")
    before = contents(home)
    in_place_of(stick / name).symlink_to(home)
    said = carry(fleet, stick)
    assert contents(home) == before
    assert "Traceback" not in said.text


FRESH: dict[str, Callable[[Path], str]] = {
    "orders": named("orders.new"),
    "beacon": named("beacon.new"),
    "metadata": named("metadata.new"),
    "an answer": named(f"sites/{SITE}/inbound.new"),
    "a manifest": lambda stick: f"{a_manifest(stick)}.new",
}


@pytest.mark.parametrize("place", FRESH.values(), ids=FRESH)
def test_a_link_that_waits_where_a_new_file_is_made_is_not_written_through(
    fleet: Ground, stick: Path, home: Path, place: Callable[[Path], str]
) -> None:
    in_place_of(stick / place(stick)).symlink_to(home / FOREIGN)
    said = carry(fleet, stick)
    assert (home / FOREIGN).read_text("utf-8") == "precious"
    assert "Traceback" not in said.text


@pytest.mark.parametrize("place", FRESH.values(), ids=FRESH)
def test_a_pipe_that_waits_where_a_new_file_is_made_hangs_nobody(
    fleet: Ground, stick: Path, place: Callable[[Path], str]
) -> None:
    os.mkfifo(in_place_of(stick / place(stick)))
    assert "Traceback" not in carry(fleet, stick).text


def test_what_the_site_asks_is_not_written_through_a_link(
    fleet: Ground, lonely: Program, stick: Path, home: Path
) -> None:
    said = carry(fleet, stick, lonely)
    mirror = next(path.name for path in (stick / "sites").iterdir() if path.name != SITE)
    before = contents(home)
    in_place_of(stick / "sites" / mirror).symlink_to(home)
    said = carry(fleet, stick, lonely)
    assert contents(home) == before
    assert "Traceback" not in said.text


# --- what is deleted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["manifests/notes.txt", "pieces/notes/holiday.txt", "pieces/ab/holiday.txt"]
)
def test_a_stick_s_owner_keeps_files_of_names_that_are_none_of_ours(
    fleet: Ground, stick: Path, name: str
) -> None:
    in_place_of(stick / name).write_text("precious", "utf-8")
    carry(fleet, stick)
    assert (stick / name).read_text("utf-8") == "precious"


# --- what is read --------------------------------------------------------------------------------

READ_AT_THE_FLEET: dict[str, Callable[[Path], str]] = {
    "the mark": named("fleet"),
    "orders": named("orders"),
    "what a site asks": named(f"sites/{SITE}/outbound"),
    "an answer": named(f"sites/{SITE}/inbound"),
    "a manifest": a_manifest,
    "a manifest of another name": named(f"manifests/{'f' * 64}"),
    "a piece": a_piece,
}

READ_AT_A_SITE: dict[str, Callable[[Path], str]] = {
    "the mark": named("fleet"),
    "metadata": named("metadata"),
    "the beacon": named("beacon"),
    "orders": named("orders"),
    "a manifest": a_manifest,
    "a manifest of another name": named(f"manifests/{'f' * 64}"),
    "a piece": a_piece,
}


@pytest.mark.parametrize("place", READ_AT_THE_FLEET.values(), ids=READ_AT_THE_FLEET)
def test_a_pipe_on_a_stick_hangs_nobody_at_the_fleet(
    fleet: Ground, stick: Path, place: Callable[[Path], str]
) -> None:
    os.mkfifo(in_place_of(stick / place(stick)))
    assert "Traceback" not in carry(fleet, stick).text


@pytest.mark.parametrize("place", READ_AT_A_SITE.values(), ids=READ_AT_A_SITE)
def test_a_pipe_on_a_stick_hangs_nobody_at_a_site(
    fleet: Ground, lonely: Program, stick: Path, place: Callable[[Path], str]
) -> None:
    os.mkfifo(in_place_of(stick / place(stick)))
    assert "Traceback" not in carry(fleet, stick, lonely).text


@pytest.mark.parametrize("place", READ_AT_THE_FLEET.values(), ids=READ_AT_THE_FLEET)
def test_a_file_larger_than_any_of_its_kind_is_not_read_at_the_fleet(
    fleet: Ground, stick: Path, place: Callable[[Path], str]
) -> None:
    make_huge(in_place_of(stick / place(stick)))
    assert "Traceback" not in carry(fleet, stick).text


@pytest.mark.parametrize("place", READ_AT_A_SITE.values(), ids=READ_AT_A_SITE)
def test_a_file_larger_than_any_of_its_kind_is_not_read_at_a_site(
    fleet: Ground, lonely: Program, stick: Path, place: Callable[[Path], str]
) -> None:
    make_huge(in_place_of(stick / place(stick)))
    assert "Traceback" not in carry(fleet, stick, lonely).text


@pytest.mark.parametrize("name", ["fleet", "orders", f"sites/{SITE}/outbound"])
def test_a_link_to_an_endless_device_is_not_read(fleet: Ground, stick: Path, name: str) -> None:
    in_place_of(stick / name).symlink_to("/dev/zero")
    said = carry(fleet, stick)
    assert "Traceback" not in said.text


def test_a_link_shows_no_line_of_another_file(fleet: Ground, stick: Path, home: Path) -> None:
    (home / FOREIGN).write_text("c0ffee-secret", "utf-8")
    in_place_of(stick / "fleet").symlink_to(home / FOREIGN)
    said = carry(fleet, stick)
    assert_one_sentence(said)
    assert "c0ffee" not in said.text


def test_the_names_on_a_stick_move_no_cursor(fleet: Ground, stick: Path) -> None:
    folder = stick / "sites" / "\x1b[2Jnothing is wrong"
    folder.mkdir()
    (folder / "outbound").write_bytes(b"junk")
    assert_harmless(carry(fleet, stick).text)

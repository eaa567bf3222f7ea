"""An agent that runs as root, and a product root that another user of the machine can change."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.ground import Ground, Program, ground, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives files away"),
]

PRODUCT = "app"
STRANGER = 12345


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        made.publish(PRODUCT, "1.0")
        yield made


@pytest.fixture(scope="module")
def enrolled(fleet: Ground) -> Program:
    return fleet.agent("endpoint", fleet.folder / "unused", PRODUCT)


@pytest.fixture
def agent(enrolled: Program, tmp_path: Path) -> Iterator[Program]:
    """A fresh machine with an empty product root."""
    home, root = tmp_path / "endpoint", tmp_path / "root"
    shutil.copytree(enrolled.folder, home)
    root.mkdir(mode=0o755)
    products = {PRODUCT: {"root": str(root), "settle_s": 0.0}}
    state = str(home / "state")
    own = {"state": state, "fleet_root": f"{state}/root.json", "products": products}
    machine = Program("agent", home, enrolled.settings | own)
    yield machine
    machine.stop()


def victim_of(root: Path) -> Path:
    """A folder that is none of the product's, with something in it."""
    victim = root.parent / "victim"
    (victim / ".half-precious").mkdir(parents=True)
    for path in (victim / "file", victim / ".half-precious" / "file"):
        path.write_text("precious", "utf-8")
    return victim


def linked(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).symlink_to(victim_of(root))


def given_away(name: str) -> Callable[[Path], object]:
    def give(root: Path) -> None:
        (root / name).mkdir(exist_ok=True)
        os.chown(root / name, STRANGER, STRANGER)

    return give


def opened(name: str) -> Callable[[Path], object]:
    def open_up(root: Path) -> None:
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o777)

    return open_up


PLANTS: dict[str, Callable[[Path], object]] = {
    "versions is a link": linked("versions"),
    ".firedoor is a link": linked(".firedoor"),
    "quarantine is a link": linked("quarantine"),
    "the root is another user's": given_away("."),
    "versions is another user's": given_away("versions"),
    ".firedoor is another user's": given_away(".firedoor"),
    "all can write the root": opened("."),
    "all can write versions": opened("versions"),
}


def root_of(agent: Program) -> Path:
    return Path(agent.settings["products"][PRODUCT]["root"])


def row_of(agent: Program) -> dict[str, str]:
    rows = agent.status().get("products") or [{"version": "", "detail": ""}]
    return dict(rows[0])


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_product_root_that_another_user_can_change_is_refused_and_said(
    fleet: Ground, agent: Program, plant: Callable[[Path], object]
) -> None:
    root = root_of(agent)
    plant(root)
    victim = root.parent / "victim"
    before = contents(victim)
    agent.start()
    seen: dict[str, str] = {}

    def has_ended() -> bool:
        seen.update(row_of(agent))
        return bool(seen["version"]) or str(root) in seen["detail"]

    until("it is refused", has_ended, 10.0)
    assert not seen["version"]
    assert contents(victim) == before
    assert not (root / "current").is_symlink()


def test_a_link_that_comes_while_the_agent_runs_is_not_followed_by_the_next_release(
    fleet: Ground, agent: Program
) -> None:
    agent.start()
    until("1.0 runs", lambda: row_of(agent)["version"] == "1.0")
    root = root_of(agent)
    victim = victim_of(root)
    shutil.copytree(root / "versions", victim, dirs_exist_ok=True)
    before = contents(victim)
    (root / "versions").rename(root / "elsewhere")
    (root / "versions").symlink_to(victim)
    fleet.publish(PRODUCT, "2.0")

    def has_ended() -> bool:
        row = row_of(agent)
        return row["version"] == "2.0" or str(root) in row["detail"]

    until("it is refused", has_ended, 10.0)
    assert contents(victim) == before


def test_an_honest_root_is_taken(fleet: Ground, agent: Program) -> None:
    agent.start()
    until("it runs", lambda: row_of(agent)["version"] in {"1.0", "2.0"})

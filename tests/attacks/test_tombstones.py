"""What a release or a local user leaves beside a product: no halt is dodged by it.

The folder of tombstones lies in a product's own root, where a release's check and the product
itself can write. What the order log says counts all the same.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from firedoor.cli.demo.local_fleet import toml
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.storage.order_log import ORDER, OrderLog
from tests.attacks.ground import (
    Ground,
    Program,
    Said,
    ground,
    make_huge,
    run,
    until,
)

pytestmark = pytest.mark.slow

PRODUCT = "app"
STRANGER = bytes(31) + b"\1"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        yield made


@pytest.fixture(scope="module")
def ran(fleet: Ground) -> Program:
    """A machine on which 1.0 has run and 2.0 runs; its agent is stopped."""
    agent = fleet.agent("endpoint", fleet.folder / "root", PRODUCT)
    agent.start()
    for version in ("1.0", "2.0"):
        fleet.publish(PRODUCT, version)
        until(f"{version} runs", partial(is_well, agent, version))
    assert agent.stop()
    return agent


@pytest.fixture
def machine(ran: Program, tmp_path: Path) -> Iterator[Program]:
    """A copy of its disk, on a machine that is alone: what one test has halted no other hears."""
    home = Path(shutil.copytree(ran.folder, tmp_path / "endpoint"))
    root = shutil.copytree(root_of(ran), tmp_path / "root", symlinks=True)
    products = {PRODUCT: {"root": str(root), "settle_s": 0.0}}
    state = str(home / "state")
    settings = ran.settings | {"state": state, "products": products, "mirrors": []}
    settings["fleet_root"] = str(home / "state" / "root.json")
    copy = Program("agent", home, settings)
    for path in (tmp_path, home, home / "state", Path(root)):
        path.chmod(0o755)
    (home / "log").unlink()
    yield copy
    copy.stop()


def root_of(agent: Program) -> Path:
    return Path(agent.settings["products"][PRODUCT]["root"])


def current(agent: Program) -> str:
    return (root_of(agent) / "current").readlink().name.partition("-")[0]


def is_well(agent: Program, version: str) -> bool:
    rows = agent.status().get("products", [])
    return [(row["version"], row["phase"]) for row in rows] == [(version, "idle")]


def an_order(fleet: Ground, scope: str, level: int, seed: bytes | None = None) -> bytes:
    """A halt by the halt key; or by a key of nobody."""
    key = read_key_file(fleet.key("halt-1"), str)
    payload = HaltPayload(1, os.urandom(16), scope, level, 0, "it boot-loops")
    seeds = {key.keyid: seed or key.signing_seed}
    return seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)[1]


def record(fleet: Ground, agent: Program, level: int) -> None:
    """The agent has recorded a halt of what runs, and was killed before it did anything."""
    log = OrderLog(Path(agent.settings["state"]) / "orders.log")
    log.append_all([(ORDER, an_order(fleet, f"{PRODUCT}==2.0", level))])
    log.close()


def guard(agent: Program) -> Said:
    """The machine starts."""
    agent.config.write_text(toml(agent.settings), "utf-8")
    return run(sys.executable, "-m", "agent", "guard", "--config", agent.config)


# --- what lies there -----------------------------------------------------------------------------

Plant = Callable[[Path], object]


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "zzz.order")


def a_link_to_an_endless_device(folder: Path) -> None:
    (folder / "zzz.order").symlink_to("/dev/zero")


def a_folder(folder: Path) -> None:
    (folder / "zzz.order").mkdir()


def junk(folder: Path) -> None:
    (folder / "zzz.order").write_bytes(b"junk")


def a_huge_file(folder: Path) -> None:
    make_huge(folder / "zzz.order")


def a_file_that_others_can_write(folder: Path) -> None:
    junk(folder)
    (folder / "zzz.order").chmod(0o666)


def a_file_of_another_user(folder: Path) -> None:
    junk(folder)
    os.chown(folder / "zzz.order", 1, 1)


def a_folder_that_others_can_write(folder: Path) -> None:
    folder.chmod(0o777)


def a_link_in_place_of_the_folder(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to("/dev")


def a_link_in_place_of_the_folder_above(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.symlink_to("/proc")


def a_pipe_in_place_of_the_folder(folder: Path) -> None:
    folder.rmdir()
    os.mkfifo(folder)


def ten_thousand_files(folder: Path) -> None:
    for number in range(10_000):
        (folder / f"{number:05}.order").write_bytes(b"junk")


PLANTS: dict[str, Plant] = {
    plant.__name__.replace("_", " "): plant
    for plant in (
        a_pipe,
        a_link_to_an_endless_device,
        a_folder,
        junk,
        a_huge_file,
        a_file_that_others_can_write,
        a_file_of_another_user,
        a_folder_that_others_can_write,
        a_link_in_place_of_the_folder,
        a_link_in_place_of_the_folder_above,
        a_pipe_in_place_of_the_folder,
        ten_thousand_files,
    )
}

# What an agent must come through; what only the guard's rules of owners refuse is left out.
FOR_AN_AGENT: dict[str, Plant] = {
    name: plant
    for name, plant in PLANTS.items()
    if plant
    in {a_pipe, a_link_to_an_endless_device, a_folder, a_huge_file, a_pipe_in_place_of_the_folder}
}


def plant_in(agent: Program, plant: Plant) -> Path:
    folder = root_of(agent) / ".firedoor" / "halts"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    plant(folder)
    return folder


# --- the boot guard ------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_halt_in_the_log_is_obeyed_at_boot_whatever_lies_beside_the_product(
    fleet: Ground, machine: Program, plant: Plant
) -> None:
    record(fleet, machine, 7)
    plant_in(machine, plant)
    said = guard(machine)
    assert said.code == 0
    assert current(machine) == "1.0", said.text


def test_an_order_that_nobody_has_signed_takes_no_way_back(fleet: Ground, machine: Program) -> None:
    record(fleet, machine, 7)
    forged = an_order(fleet, "everything", 4, STRANGER)
    plant_in(machine, lambda folder: (folder / "zzz.order").write_bytes(forged))
    guard(machine)
    assert current(machine) == "1.0"


def test_a_sound_tombstone_is_heeded_beside_one_that_cannot_be_read(
    fleet: Ground, machine: Program
) -> None:
    order = an_order(fleet, f"{PRODUCT}==2.0", 7)

    def plant(folder: Path) -> None:
        a_pipe(folder)
        (folder / f"{'a' * 64}.order").write_bytes(order)
        (folder / f"{'a' * 64}.order").chmod(0o600)

    plant_in(machine, plant)
    said = guard(machine)
    assert current(machine) == "1.0", said.text


def test_the_guard_says_what_it_could_not_read(fleet: Ground, machine: Program) -> None:
    record(fleet, machine, 7)
    plant_in(machine, a_pipe)
    assert "zzz.order" in guard(machine).out


def test_a_pipe_in_place_of_the_guard_s_own_memory_dodges_no_halt(
    fleet: Ground, machine: Program
) -> None:
    record(fleet, machine, 7)
    os.mkfifo(Path(machine.settings["state"]) / "guard.json")
    assert guard(machine).code == 0
    assert current(machine) == "1.0"


@pytest.mark.parametrize("name", ["orders.log", "journal.db", "journal.db-wal", "root.json"])
def test_a_pipe_in_the_state_folder_keeps_no_machine_from_starting(
    fleet: Ground, machine: Program, name: str
) -> None:
    path = Path(machine.settings["state"]) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert guard(machine).code == 0


# --- the agent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", FOR_AN_AGENT.values(), ids=FOR_AN_AGENT)
def test_an_agent_obeys_and_ends_whatever_lies_beside_the_product(
    fleet: Ground, machine: Program, plant: Plant
) -> None:
    record(fleet, machine, 5)
    plant_in(machine, plant)
    machine.start()
    until("it steps back", lambda: current(machine) == "1.0", 8.0)
    assert machine.stop()


def test_an_agent_that_has_nothing_to_read_but_a_pipe_says_so_and_ends(
    fleet: Ground, machine: Program
) -> None:
    plant_in(machine, a_pipe)
    machine.start()
    try:
        until("status says it", lambda: ".order" in str(machine.status()), 8.0)
    finally:
        has_ended = machine.stop()
    assert has_ended


def test_an_agent_that_a_pipe_has_met_ends_when_it_is_asked(
    fleet: Ground, machine: Program
) -> None:
    plant_in(machine, a_pipe)
    machine.start()
    until("it answers", machine.status)
    assert machine.stop()


def test_a_pipe_in_place_of_the_guard_s_word_does_not_stop_the_agent(
    fleet: Ground, machine: Program
) -> None:
    record(fleet, machine, 5)
    os.mkfifo(Path(machine.settings["state"]) / "guard.json")
    machine.start()
    until("it steps back", lambda: current(machine) == "1.0", 8.0)
    assert machine.stop()


def test_no_tombstone_is_written_through_a_link(fleet: Ground, machine: Program) -> None:
    victim = machine.folder.parent / "victim"
    (victim / "halts").mkdir(parents=True)
    (victim / "halts" / f"{'0' * 64}.order").write_text("precious", "utf-8")

    def plant(folder: Path) -> None:
        shutil.rmtree(folder.parent)
        folder.parent.symlink_to(victim)

    plant_in(machine, plant)
    record(fleet, machine, 4)
    machine.start()
    until("it answers", machine.status)
    fleet.halt("other==1", 4, "it is bad", to=machine.address)
    until("both are recorded", lambda: len(machine.status()["orders"]) == 2)
    # The copies follow an order within two seconds.
    time.sleep(3.0)
    assert [path.name for path in (victim / "halts").iterdir()] == [f"{'0' * 64}.order"]

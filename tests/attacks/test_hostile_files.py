"""Files that another person has made, named on the command line: never read without a bound."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from tests.attacks.ground import Said, assert_one_sentence, firedoor, make_huge
from tests.unit.origin_bench import COUNTS, NOW

pytestmark = pytest.mark.slow

NOWHERE = ("--to", "127.0.0.1:1")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground") / "fleet"
    make_fleet(folder, FleetPlan("test", "127.0.0.1:1", (), COUNTS, None), NOW)
    return folder


def key(fleet: Path, name: str) -> tuple[object, ...]:
    return ("--key", fleet / "keys" / f"{name}.key")


Use = Callable[[Path, Path], Said]

USES: dict[str, Use] = {
    "a certificate": lambda fleet, file: firedoor(
        "certificate", "verify", file, "--root", fleet / "root.json"
    ),
    "a root": lambda fleet, file: firedoor(
        "certificate", "verify", fleet / "fleet.json", "--root", file
    ),
    "orders": lambda fleet, file: firedoor(
        "order", "import", file, *key(fleet, "operator"), *NOWHERE
    ),
    "a part": lambda fleet, file: firedoor(
        "resume", "--combine", file, *key(fleet, "resume-1"), *NOWHERE
    ),
    "a part of a ban": lambda fleet, file: firedoor(
        "ban", "--combine", file, *key(fleet, "resume-1"), *NOWHERE
    ),
    "a key": lambda _, file: firedoor("status", "--key", file, *NOWHERE),
    "an identity": lambda _, file: firedoor("enrol", "--renew", "--state", file.parent, *NOWHERE),
    "a passphrase": lambda fleet, file: firedoor(
        "init", fleet.parent / f"new-{file.parent.name}", "--passphrase-file", file
    ),
}

# Some pass these by a pipe of the shell; they end by its writer.
REGULAR = {name: use for name, use in USES.items() if name not in {"a key", "a passphrase"}}


@pytest.mark.parametrize("use", REGULAR.values(), ids=REGULAR)
def test_a_pipe_that_nobody_writes_to_hangs_no_command(
    fleet: Path, tmp_path: Path, use: Use
) -> None:
    os.mkfifo(tmp_path / "identity.key")
    assert_one_sentence(use(fleet, tmp_path / "identity.key"))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_huge_file_takes_no_memory(fleet: Path, tmp_path: Path, use: Use) -> None:
    make_huge(tmp_path / "identity.key")
    assert_one_sentence(use(fleet, tmp_path / "identity.key"))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_endless_device_takes_no_memory(fleet: Path, tmp_path: Path, use: Use) -> None:
    (tmp_path / "identity.key").symlink_to("/dev/zero")
    assert_one_sentence(use(fleet, tmp_path / "identity.key"))

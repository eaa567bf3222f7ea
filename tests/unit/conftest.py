"""A fleet that is made once, and an origin on a copy of it for each test that asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from tests.unit.origin_bench import COUNTS, NOW, Bench, opened


@pytest.fixture(scope="session")
def new_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fleet = tmp_path_factory.mktemp("made") / "fleet"
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), COUNTS, None), NOW)
    return fleet


@pytest.fixture
def bench(new_fleet: Path, tmp_path: Path) -> Iterator[Bench]:
    made = opened(new_fleet, tmp_path / "first")
    yield made
    made.origin.close()

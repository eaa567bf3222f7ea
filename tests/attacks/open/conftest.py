"""The origin in folders of a test, as the unit tests have it."""

from tests.unit.conftest import bench, new_fleet

__all__ = ["bench", "new_fleet"]

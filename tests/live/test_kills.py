"""A slice of the hunt: an endpoint that is killed while halts arrive keeps what it acknowledged."""

import os
from pathlib import Path

import pytest

from tests.hunt.kills import hunt

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks endpoints"),
]


def test_thirty_kills_lose_no_order_that_was_acknowledged(tmp_path: Path) -> None:
    found = hunt(tmp_path, times=30, seed=7)
    assert found["kills"] == 30
    assert found["acknowledged"] > 0
    assert found["lost"] == 0

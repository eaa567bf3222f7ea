"""The guard's count of starts: what ended a program three times once is no downgrade in hand."""

import time
from pathlib import Path

import pytest

from tests.unit.agent.guard.test_guard import current, home, start

__all__ = ["home"]

MONTH_S = 30 * 86400


@pytest.mark.slow
def test_three_restarts_on_the_day_of_an_update_take_nothing_back_a_month_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        start(home)
    assert current(home) == "2.0"
    # It has run well for a month since; now the machine is booted.
    later = time.time() + MONTH_S
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: later)
        start(home)
    assert current(home) == "2.0"

"""Clocks, byte budgets, lines of the log and the text of a scrape."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from firedoor.limits import GATE_BYTES
from firedoor.runtime import logs
from firedoor.runtime.clocks import Clock
from firedoor.runtime.network.metrics import Metrics
from firedoor.runtime.network.pacing import TURN_BYTES, Budget, Rate, Turns
from firedoor.units import Instant, Span


class HandClock(Clock):
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> Instant:
        return Instant(self.at)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> tuple[HandClock, list[float]]:
    """A clock that goes on only while a budget waits, and the waits."""
    clock = HandClock()
    slept: list[float] = []

    async def sleep(span: float) -> None:
        slept.append(span)
        clock.at += span

    monkeypatch.setattr("firedoor.runtime.network.pacing.asyncio.sleep", sleep)
    return clock, slept


@pytest.mark.parametrize("rate", [1_000, 250_000, 12_500_000])
def test_a_budget_keeps_its_rate(rate: int, waits: tuple[HandClock, list[float]]) -> None:
    clock, slept = waits
    budget = Budget(rate, clock)

    async def work() -> None:
        for _ in range(200):
            await budget.take(GATE_BYTES)

    asyncio.run(work())
    assert sum(slept) == pytest.approx(200 * GATE_BYTES / rate)
    assert clock.at == pytest.approx(1000 + 200 * GATE_BYTES / rate)


@pytest.mark.parametrize(
    ("rate", "burst"), [(1_000, GATE_BYTES), (4_000_000, 1_000_000), (0, 1 << 40)]
)
def test_a_pause_saves_up_a_quarter_of_a_second_or_one_portion(
    rate: int, burst: int, waits: tuple[HandClock, list[float]]
) -> None:
    clock, slept = waits
    budget = Budget(rate, clock)
    clock.at += 3600

    async def work() -> None:
        await budget.take(burst)
        assert not slept
        await budget.take(1)
        assert bool(slept) == bool(rate)

    asyncio.run(work())


def test_those_who_wait_together_share_one_rate(waits: tuple[HandClock, list[float]]) -> None:
    _, slept = waits

    async def work() -> None:
        budget = Budget(1_000_000, HandClock())
        await asyncio.gather(*(budget.take(100_000) for _ in range(3)))

    asyncio.run(work())
    assert slept == pytest.approx([0.1, 0.2, 0.3])


def turns_of(waits: tuple[HandClock, list[float]], *sizes: int) -> list[float]:
    """The waits of messages of these sizes, of one peer with ten turns a second."""
    clock, slept = waits
    turns = Turns(10, 10, clock)

    async def work() -> None:
        for size in sizes:
            await turns.take(size)

    asyncio.run(work())
    return [each for each in slept if each]


def test_whoever_has_had_its_turns_waits_for_the_next(
    waits: tuple[HandClock, list[float]],
) -> None:
    assert turns_of(waits, *[1] * 10) == []
    assert turns_of(waits, *[1] * 12) == pytest.approx([0.1, 0.1])


def test_a_long_message_takes_as_many_turns_as_short_ones_of_its_length(
    waits: tuple[HandClock, list[float]],
) -> None:
    assert turns_of(waits, 9 * TURN_BYTES) == []
    assert turns_of(waits, 9 * TURN_BYTES, 9 * TURN_BYTES) == pytest.approx([1.0])


def test_others_come_between_the_messages_of_one_peer(
    waits: tuple[HandClock, list[float]],
) -> None:
    clock, slept = waits
    turns = Turns(10_000, 10_000, clock)

    async def work() -> None:
        for _ in range(1000):
            await turns.take(1)

    asyncio.run(work())
    assert slept
    assert set(slept) == {0}


def test_a_rate_says_no_and_gains_again_with_time() -> None:
    rate = Rate(2, Span(1.0), Instant(0.0))
    assert [rate.take(Instant(0.0)) for _ in range(3)] == [True, True, False]
    assert [rate.take(Instant(0.5)) for _ in range(2)] == [True, False]


def test_the_clocks_run() -> None:
    clock = Clock()
    first = clock.now()
    assert clock.now() >= first
    assert clock.unix() > 1_700_000_000
    assert clock.seed() != clock.seed()


@pytest.fixture
def fresh_log() -> Iterator[None]:
    """The package's logger, as it was before afterwards."""
    logger = logging.getLogger("firedoor")
    kept = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, logger.propagate = list(kept[0]), kept[2]
    logger.setLevel(kept[1])


def test_an_event_is_one_line_of_json(fresh_log: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logs.log("peer-dropped", level="warning", peer="ab", why="two\nlines", count=3)
    logs.log("message", level="debug", size=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line.pop("at") > 1_700_000_000
    assert line == {
        "level": "warning",
        "event": "peer-dropped",
        "peer": "ab",
        "why": "two\nlines",
        "count": 3,
    }


def test_a_fact_that_is_no_json_is_written_as_text(
    fresh_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup()
    logs.log("started", error=ValueError("no"))
    assert json.loads(capsys.readouterr().err)["error"] == "no"


def test_two_programs_in_one_process_have_numbers_of_their_own() -> None:
    status = {
        "bytes": {"mirror": 1, "peer": 2},
        "refusals": {"stale": 3},
        "covered": {"bytes": 4},
        "orders": ["a"],
        "peers": ["a", "b"],
    }
    ours, theirs = Metrics(), Metrics()
    text = ours.render(status)
    for line in (
        b'firedoor_bytes{kind="mirror"} 1.0',
        b'firedoor_bytes{kind="peer"} 2.0',
        b'firedoor_refused{reason="stale"} 3.0',
        b"firedoor_covered_bytes 4.0",
        b"firedoor_orders 1.0",
        b"firedoor_peers 2.0",
    ):
        assert line in text.splitlines()
    empty = status | {"bytes": {}, "orders": [], "peers": []}
    assert b"firedoor_peers 0.0" in theirs.render(empty)

"""The programs of a site that run once an order is enforced: told, failing, hanging."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import receipts
from agent.receipts import ReceiptWriter
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import Bench


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, object]]]:
    """The facts of each line that the hooks bring into the log, in order."""
    found: list[dict[str, object]] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("hook-"):
                found.append({"event": record.getMessage()} | getattr(record, "facts", {}))

    ear, logger = Ear(), logging.getLogger("firedoor")
    logger.addHandler(ear)
    yield found
    logger.removeHandler(ear)


def halted_with(bench: Bench, folder: Path, *hooks: str) -> None:
    """An endpoint with these hooks gets a halt, and follows it to its end."""
    endpoint = Endpoint(bench, folder / "endpoint")
    endpoint.publish("1.0")

    async def story(one: Endpoint) -> None:
        await one.until_runs("1.0")
        await one.halt(PRODUCT, 4)
        writer = ReceiptWriter(
            one.host,
            bytes(32),
            pending=lambda: False,
            active=list,
            staged=list,
            on_order=hooks,
        )
        (halt,) = one.host.node.orders.in_force()
        before = asyncio.all_tasks()
        writer.closed()
        writer.recorded(halt.id)
        await asyncio.wait(asyncio.all_tasks() - before)

    endpoint.run(story)


def test_a_hook_gets_the_order_on_its_standard_input(
    bench: Bench, tmp_path: Path, events: list[dict[str, object]]
) -> None:
    told = tmp_path / "told"
    halted_with(bench, tmp_path, f"sh -c 'cat > {told}'")
    order = json.loads(told.read_bytes())
    assert (order["kind"], order["scope"], order["level"]) == ("halt", PRODUCT, 4)
    assert events == []


def test_a_hook_that_fails_is_said_and_the_next_one_runs(
    bench: Bench, tmp_path: Path, events: list[dict[str, object]]
) -> None:
    told = tmp_path / "told"
    halted_with(bench, tmp_path, "sh -c 'exit 3'", "/no/such/program", f"touch {told}")
    assert [each["event"] for each in events] == ["hook-failed", "hook-failed"]
    assert events[0]["code"] == 3
    assert "No such file" in str(events[1]["why"])
    assert told.exists()


def test_a_hook_that_reads_nothing_is_no_failure(
    bench: Bench, tmp_path: Path, events: list[dict[str, object]]
) -> None:
    halted_with(bench, tmp_path, "true")
    assert events == []


def test_a_hook_that_hangs_is_killed(
    bench: Bench,
    tmp_path: Path,
    events: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receipts, "HOOK_SPAN_S", 0.3)
    pid = tmp_path / "pid"
    halted_with(bench, tmp_path, f"sh -c 'echo $$ > {pid}; exec sleep 600'")
    assert [each["event"] for each in events] == ["hook-ended"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)

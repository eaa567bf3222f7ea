"""What becomes of records on a disk that is quick, slow or full."""

import asyncio
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firedoor.errors import Unavailable
from firedoor.runtime.storage import order_log, recorder
from firedoor.runtime.storage.order_log import BEACON, ORDER, Entry, OrderLog, read_frames
from firedoor.runtime.storage.recorder import Recorder

RECORDS: list[Entry] = [(ORDER, b"one"), (BEACON, b"two"), (ORDER, b"three")]
BODIES = [b"oone", b"btwo", b"othree"]


class SlowLog(OrderLog):
    """A log on a disk that is `full` so many times, and never quick."""

    full = 0

    def append_all(self, entries: Iterable[Entry]) -> None:
        if self.full:
            self.full -= 1
            raise Unavailable("the disk", why="full")
        super().append_all(entries)
        self.is_quick = False


class CountingLog(OrderLog):
    """A log that knows how often it was written."""

    writes = 0

    def append_all(self, entries: Iterable[Entry]) -> None:
        self.writes += 1
        super().append_all(entries)


class Work:
    """Starts what the recorder hands on, and waits for it."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def __call__(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def ended(self) -> None:
        await asyncio.gather(*self.tasks)


def _bodies(path: Path) -> list[bytes]:
    return read_frames(path.read_bytes())[0]


def test_all_that_comes_in_one_turn_of_the_loop_shares_one_write(tmp_path: Path) -> None:
    async def story() -> None:
        log, work, heard = CountingLog(tmp_path / "orders.log"), Work(), list[str]()
        keeper = Recorder(log, work)
        for number in range(3):
            keeper.keep(RECORDS[number : number + 1], partial(heard.append, str(number)))
        await asyncio.sleep(0)
        assert heard == ["0", "1", "2"]
        assert _bodies(log.path) == BODIES
        assert log.writes == 1
        assert not work.tasks

    asyncio.run(story())


def test_what_breaks_after_one_record_keeps_no_other_from_being_said(tmp_path: Path) -> None:
    async def story() -> None:
        log, heard, broken = OrderLog(tmp_path / "orders.log"), list[str](), list[object]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: broken.append(context["exception"]))

        def breaks() -> None:
            raise ValueError

        keeper = Recorder(log, Work())
        keeper.keep(RECORDS[:1], breaks)
        keeper.keep(RECORDS[1:], lambda: heard.append("said"))
        await asyncio.sleep(0)
        assert heard == ["said"]
        assert [type(each) for each in broken] == [ValueError]

    asyncio.run(story())


def test_what_is_forwarded_leaves_before_the_disk_is_written(tmp_path: Path) -> None:
    async def story() -> None:
        log, work, said = OrderLog(tmp_path / "orders.log"), Work(), list[str]()
        asyncio.get_running_loop().call_soon(said.append, "forwarded")
        Recorder(log, work).keep(RECORDS, lambda: said.append("recorded"))
        assert _bodies(log.path) == []
        await asyncio.sleep(0)
        assert said == ["forwarded", "recorded"]
        assert _bodies(log.path) == BODIES

    asyncio.run(story())


def test_a_slow_disk_is_waited_for_by_a_thread(tmp_path: Path) -> None:
    async def story() -> None:
        log, work, said = SlowLog(tmp_path / "orders.log"), Work(), list[str]()
        keeper = Recorder(log, work)
        keeper.keep(RECORDS[:1], lambda: said.append("one"))
        await asyncio.sleep(0)
        assert said == ["one"]
        keeper.keep(RECORDS[1:], lambda: said.append("rest"))
        await asyncio.sleep(0)
        assert said == ["one"]
        await work.ended()
        assert said == ["one", "rest"]
        assert _bodies(log.path) == BODIES

    asyncio.run(story())


def test_records_wait_for_a_full_disk_in_the_order_in_which_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RECORD_AGAIN_S", 0.0)

    async def story() -> None:
        log, work, said = SlowLog(tmp_path / "orders.log"), Work(), list[str]()
        # Full once: the second write would pass at once if it did not wait for the first.
        log.full = 1
        keeper = Recorder(log, work)
        keeper.keep(RECORDS[:1], lambda: said.append("first"))
        await asyncio.sleep(0)
        keeper.keep(RECORDS[1:], lambda: said.append("then"))
        await asyncio.sleep(0)
        assert said == []
        await work.ended()
        assert said == ["first", "then"]
        assert _bodies(log.path) == BODIES

    asyncio.run(story())


def test_a_disk_whose_last_write_was_slow_is_not_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OrderLog(tmp_path / "orders.log")
    assert log.is_quick
    monkeypatch.setattr(order_log, "QUICK_S", 0.0)
    log.append_all(RECORDS)
    assert not log.is_quick

"""Every state that a crash may leave of the order log's writes and syncs, replayed.

The system calls of a run are recorded. A crash may keep what was synced and any prefix of what was
written since, with or without the file's new length; from each such state a start must come up,
hold every order that was promised by then, and hold none that was never written.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId
from firedoor.runtime.storage import order_log
from firedoor.runtime.storage.order_log import ORDER, OrderLog
from firedoor.trust.keys import key_of
from tests.unit.guard_reading import read_orders

FLEET = "0a" * 16
SEED = bytes([1]) * 32

# What a disk may hold in blocks that the file has been given and that were not written yet.
FILLINGS = (b"\x00",)


@pytest.fixture(autouse=True)
def small_reserve() -> Iterator[None]:
    # A log is opened for each prefix, and each would hold a mebibyte.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(order_log, "RESERVE_BYTES", 512)
        yield


def a_halt(number: int, size: int) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "app==1", 4, 0, "r" * size)
    keys = {key_of(SEED).keyid: SEED}
    return seal("halt", payload, fleet=FleetId(FLEET), keys=keys)


@dataclass
class Disk:
    """One file as a disk has it: what is sure, what is written, and what was promised by then.

    `states`: sure bytes, written bytes and the count of promised orders after each system call.
    """

    sure: bytes = b""
    written: bytes = b""
    promised: int = 0

    def __post_init__(self) -> None:
        self.states: list[tuple[bytes, bytes, int]] = []

    def note(self) -> None:
        self.states.append((self.sure, self.written, self.promised))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What the log's own calls make of its file, one call at a time, in bites of 100 bytes."""
    found = Disk()
    write, truncate, sync = os.write, os.ftruncate, os.fdatasync

    def write_some(file: int, data: bytes) -> int:
        count = write(file, bytes(data[:100]))
        found.written += bytes(data[:count])
        found.note()
        return count

    def cut(file: int, size: int) -> None:
        truncate(file, size)
        found.written = found.written[:size]
        found.note()

    def sync_all(file: int) -> None:
        sync(file)
        found.sure = found.written
        found.note()

    monkeypatch.setattr(os, "write", write_some)
    monkeypatch.setattr(os, "ftruncate", cut)
    monkeypatch.setattr(os, "fdatasync", sync_all)
    return found


def leftovers(sure: bytes, written: bytes) -> Iterator[bytes]:
    """What the disk may hold after a crash: any prefix of what was not synced yet."""
    assert written.startswith(sure)
    for size in range(len(sure), len(written) + 1):
        yield written[:size]
        for filling in FILLINGS:
            # The file's length is there and the rest of its bytes are not.
            yield written[:size] + filling * (len(written) - size)


def test_no_prefix_of_the_log_s_writes_and_syncs_loses_a_promised_order(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [a_halt(number, size) for number, size in enumerate((0, 150, 400, 1))]
    log = OrderLog(tmp_path / "orders.log")
    for _, record in orders:
        log.append_all([(ORDER, record)])
        disk.promised += 1
        disk.note()
    log.close()
    states = [*disk.states]
    monkeypatch.undo()
    path, seen = tmp_path / "crashed.log", set()
    for sure, written, promised in states:
        for data in leftovers(sure, written):
            if (data, promised) in seen:
                continue
            seen.add((data, promised))
            path.write_bytes(data)
            after = OrderLog(path)
            held = after.orders
            # What is promised is there, in order, and what is there was written.
            assert held == [record for _, record in orders[: len(held)]]
            assert len(held) >= promised
            # It goes on from there.
            after.append_all([(ORDER, orders[0][1])])
            after.close()
            again = OrderLog(path)
            assert again.orders == [*held, orders[0][1]]
            again.close()
            # The boot guard, which reads while nobody repairs, sees as much.
            ids = set(read_orders(FLEET, data, ()).halts)
            assert {order_id for order_id, _ in orders[:promised]} <= ids
    assert len(seen) > 1000

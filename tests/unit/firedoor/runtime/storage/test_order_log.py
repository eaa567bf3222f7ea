"""What the brake remembers through torn writes, full disks and rot."""

import errno
import os
from pathlib import Path

import pytest

from firedoor.errors import Malformed, Unavailable
from firedoor.runtime.storage import order_log
from firedoor.runtime.storage.order_log import ACTED, BEACON, ORDER, OrderLog

ORDERS = [f"order {number}".encode() * 20 for number in range(4)]


def written(path: Path) -> bytes:
    """A log of four orders; its bytes."""
    log = OrderLog(path)
    for order in ORDERS:
        log.append_all([(ORDER, order)])
    log.close()
    return records_in(path)


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    # Thousands of files are opened here, and each would hold a mebibyte.
    monkeypatch.setattr(order_log, "RESERVE_BYTES", 512)


def records_in(path: Path) -> bytes:
    """The file without the room that is held for orders to come."""
    return path.read_bytes().rstrip(b"\0")


def read(path: Path, *, may_heal: bool = True) -> list[bytes]:
    log = OrderLog(path, may_heal=may_heal)
    log.close()
    return log.orders


def test_every_kind_of_record_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "orders.log"
    log = OrderLog(path)
    log.append_all([(ORDER, ORDERS[0])])
    log.append_all([(BEACON, b"first")])
    log.append_all([(ACTED, b"id")])
    log.append_all([(BEACON, b"second")])
    log.close()
    log = OrderLog(path)
    log.close()
    assert (log.orders, log.acted, log.beacon) == ([ORDERS[0]], [b"id"], b"second")


def test_a_write_torn_at_any_byte_costs_that_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "orders.log"
    data = written(path)
    frame = len(data) // len(ORDERS)
    for size in range(len(data)):
        for tail in (b"", bytes(50)):
            path.write_bytes(data[:size] + tail)
            whole = ORDERS[: size // frame]
            if size % frame and tail:
                # A head without its bytes, and zeros: only a crash in mid-write looks so, or the
                # zeros are taken for damage, which heals just the same.
                assert read(path)[: len(whole)] == whole
            else:
                assert read(path, may_heal=False) == whole
            log = OrderLog(path)
            log.append_all([(ORDER, b"next")])
            log.close()
            assert read(path, may_heal=False) == [*whole, b"next"]


def test_one_flipped_bit_anywhere_costs_one_record_and_is_refused_where_nobody_can_help(
    tmp_path: Path,
) -> None:
    path = tmp_path / "orders.log"
    data = written(path)
    frame = len(data) // len(ORDERS)
    for at in range(len(data) - frame):
        bent = bytearray(data)
        bent[at] ^= 0x10
        path.write_bytes(bent)
        with pytest.raises(Malformed, match="damage at byte"):
            read(path, may_heal=False)
        assert read(path) == [order for number, order in enumerate(ORDERS) if number != at // frame]
        assert path.with_suffix(".damaged").read_bytes() == bent
        assert len(read(path, may_heal=False)) == len(ORDERS) - 1


def test_a_full_disk_leaves_no_remains_for_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.log"
    log = OrderLog(path)
    log.append_all([(ORDER, ORDERS[0])])
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:-60])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(Unavailable, match="No space"):
        log.append_all([(ORDER, ORDERS[1] * 3)])
    monkeypatch.undo()
    log.append_all([(ORDER, b"short")])
    log.close()
    assert read(path, may_heal=False) == [ORDERS[0], b"short"]


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "orders.log").mkdir()
    with pytest.raises(Malformed, match=r"orders\.log: wanted a regular file"):
        OrderLog(tmp_path / "orders.log")


def test_a_start_leaves_out_beacons_that_others_have_replaced(tmp_path: Path) -> None:
    log = OrderLog(tmp_path / "orders.log")
    log.append_all([(ORDER, b"first")])
    for number in range(100):
        log.append_all([(BEACON, b"beacon %d" % number)])
    log.append_all([(ACTED, b"acted")])
    log.close()
    size = len(records_in(tmp_path / "orders.log"))
    again = OrderLog(tmp_path / "orders.log")
    assert (again.orders, again.acted, again.beacon) == ([b"first"], [b"acted"], b"beacon 99")
    assert len(records_in(tmp_path / "orders.log")) < size // 10
    again.append_all([(ORDER, b"second")])
    again.close()
    last = OrderLog(tmp_path / "orders.log")
    assert (last.orders, last.beacon) == ([b"first", b"second"], b"beacon 99")
    last.close()

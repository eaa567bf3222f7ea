"""A mirror above that repeats old beacons in turns, more of them than are remembered.

What is written to the order log and told to all has a bound, and is read again at a start.
"""

import asyncio
import os
from pathlib import Path

import pytest

from firedoor.runtime.storage.order_log import OrderLog
from firedoor.wire.messages import Beacon, encode_message
from tests.attacks.one_mirror import OneMirror
from tests.unit.agent.guard.test_guard import current, home, record_halt, start
from tests.unit.origin_bench import Bench

__all__ = ["home"]

pytestmark = pytest.mark.slow

# A fleet that has seen some orders; each new one brought a beacon, which any mirror has kept.
ORDERS = 200
OLD = 8
ROUNDS = 600

# A beacon each, and room for the orders to come.
LOG_BYTES_MAX = 4 << 20

# More than the guard reads.
GUARD_BYTES = 65 << 20


def beacons(bench: Bench) -> list[bytes]:
    ids = [os.urandom(32) for _ in range(ORDERS)]
    signer = bench.origin.signer
    counts = range(ORDERS - OLD + 1, ORDERS + 1)
    return [signer.beacon(tuple(sorted(ids[:count]))) for count in counts]


def flooded(bench: Bench, folder: Path, rounds: int) -> Path:
    """The order log of a mirror whose upstream has said the same beacons over and over."""
    folder.mkdir(exist_ok=True)

    async def story(mirror: OneMirror) -> None:
        frames = [encode_message(Beacon(each)) for each in beacons(bench)]
        for _ in range(rounds):
            for frame in frames:
                mirror.above.bring(frame)
            while mirror.above._coming.qsize():  # a wire has no event to wait for
                await asyncio.sleep(0.001)
        # Time for what was read last to be written.
        await asyncio.sleep(0.5)

    OneMirror(bench, folder).run(story)
    return folder / "state" / "orders.log"


def test_old_beacons_in_turns_do_not_fill_the_order_log(bench: Bench, tmp_path: Path) -> None:
    path = flooded(bench, tmp_path, ROUNDS)
    assert path.stat().st_size < LOG_BYTES_MAX


def test_whatever_a_mirror_said_its_peer_starts_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real bound is 1 GiB: of beacons of 160 kB (the most), some 6,500; this takes minutes less.
    monkeypatch.setattr("firedoor.runtime.storage.order_log.LOG_BYTES_MAX", 16 << 20)
    path = flooded(bench, tmp_path, ROUNDS)
    OrderLog(path).close()


def test_old_beacons_do_not_blind_the_boot_guard(bench: Bench, home: Path, tmp_path: Path) -> None:
    path = flooded(bench, tmp_path / "flooded", 100)
    said = path.read_bytes().rstrip(b"\0")
    # The machine has recorded a halt of level 7 of what it runs, and went down before it obeyed.
    record_halt(bench, home, "app==2.0", 7)
    log = home / "state" / "orders.log"
    kept = log.read_bytes().rstrip(b"\0")
    # What a mirror has it write within a minute or so.
    log.write_bytes(kept + said * (1 + GUARD_BYTES // len(said)))
    assert start(home) == 0
    assert current(home) == "1.0"

"""The receipts at a mirror: whose are taken, what is kept on the disk, what is dropped."""

import asyncio
from pathlib import Path

from firedoor.identity import Peer, Role
from firedoor.wire.messages import Receipts
from mirror.telemetry.receipts import ReceiptCollector
from tests.unit.firedoor.halt.test_receipts import FLEET, ORDER, SEEDS, id_of, receipt

OTHER = bytes(32)
BOTH = frozenset({ORDER, OTHER})
MIRROR = Peer(id_of(SEEDS[4]), Role.MIRROR, "branch")
PERSON = Peer(id_of(SEEDS[3]), Role.OPERATOR, "headquarters")


def agent(seed: bytes) -> Peer:
    return Peer(id_of(seed), Role.AGENT, "branch")


def desk_at(folder: Path) -> ReceiptCollector:
    return ReceiptCollector(folder / "receipts.sqlite", FLEET)


def test_an_endpoint_speaks_for_itself_a_mirror_for_those_below_it_and_a_person_for_a_stick(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        collector = desk_at(tmp_path)
        collector.take(Receipts((receipt(SEEDS[0]),)), agent(SEEDS[1]), BOTH)
        assert collector.book.all() == []
        collector.take(Receipts((receipt(SEEDS[0]),)), agent(SEEDS[0]), BOTH)
        collector.take(Receipts((receipt(SEEDS[1]),)), MIRROR, BOTH)
        collector.take(Receipts((receipt(SEEDS[2]),)), PERSON, BOTH)
        assert set(collector.book.of(ORDER)) == {id_of(seed) for seed in SEEDS[:3]}
        collector.close()

    asyncio.run(story())


def test_what_is_said_of_an_order_that_is_not_in_force_is_left_out(tmp_path: Path) -> None:
    async def story() -> None:
        collector = desk_at(tmp_path)
        collector.take(Receipts((receipt(SEEDS[0]),)), MIRROR, frozenset({OTHER}))
        assert collector.book.all() == []
        collector.close()

    asyncio.run(story())


def test_receipts_outlive_a_restart_until_their_order_is_lifted(tmp_path: Path) -> None:
    async def first() -> None:
        collector = desk_at(tmp_path)
        collector.take(Receipts((receipt(SEEDS[0]),)), MIRROR, BOTH)
        collector.close()

    async def second() -> None:
        collector = desk_at(tmp_path)
        assert len(collector.book.all()) == 1
        collector.keep_only(frozenset())
        collector.close()

    async def third() -> None:
        collector = desk_at(tmp_path)
        assert collector.book.all() == []
        collector.close()

    for story in (first, second, third):
        asyncio.run(story())


def test_a_file_that_is_no_base_costs_no_receipt(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "receipts.sqlite").write_bytes(b"junk" * 100)
        collector = desk_at(tmp_path)
        collector.take(Receipts((receipt(SEEDS[0]),)), MIRROR, BOTH)
        assert len(collector.all()) == 1
        collector.close()

    asyncio.run(story())

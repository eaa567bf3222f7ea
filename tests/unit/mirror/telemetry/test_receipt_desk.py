"""The receipts at a mirror: whose are taken, what is kept on the disk, what is dropped."""

import asyncio
from pathlib import Path

from firedoor.identity import Peer, Role
from firedoor.wire.messages import Receipts
from mirror.telemetry.receipts import ReceiptDesk
from tests.unit.firedoor.halt.test_receipts import FLEET, ORDER, SEEDS, id_of, receipt

OTHER = bytes(32)
BOTH = frozenset({ORDER, OTHER})
MIRROR = Peer(id_of(SEEDS[4]), Role.MIRROR, "branch")
PERSON = Peer(id_of(SEEDS[3]), Role.OPERATOR, "headquarters")


def agent(seed: bytes) -> Peer:
    return Peer(id_of(seed), Role.AGENT, "branch")


def desk_at(folder: Path) -> ReceiptDesk:
    return ReceiptDesk(folder / "receipts.sqlite", FLEET)


def test_an_endpoint_speaks_for_itself_a_mirror_for_those_below_it_and_a_person_for_a_stick(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        desk = desk_at(tmp_path)
        desk.take(Receipts((receipt(SEEDS[0]),)), agent(SEEDS[1]), BOTH)
        assert desk.book.all() == []
        desk.take(Receipts((receipt(SEEDS[0]),)), agent(SEEDS[0]), BOTH)
        desk.take(Receipts((receipt(SEEDS[1]),)), MIRROR, BOTH)
        desk.take(Receipts((receipt(SEEDS[2]),)), PERSON, BOTH)
        assert set(desk.book.of(ORDER)) == {id_of(seed) for seed in SEEDS[:3]}
        desk.close()

    asyncio.run(story())


def test_what_is_said_of_an_order_that_is_not_in_force_is_left_out(tmp_path: Path) -> None:
    async def story() -> None:
        desk = desk_at(tmp_path)
        desk.take(Receipts((receipt(SEEDS[0]),)), MIRROR, frozenset({OTHER}))
        assert desk.book.all() == []
        desk.close()

    asyncio.run(story())


def test_receipts_outlive_a_restart_until_their_order_is_lifted(tmp_path: Path) -> None:
    async def first() -> None:
        desk = desk_at(tmp_path)
        desk.take(Receipts((receipt(SEEDS[0]),)), MIRROR, BOTH)
        desk.close()

    async def second() -> None:
        desk = desk_at(tmp_path)
        assert len(desk.book.all()) == 1
        desk.keep_only(frozenset())
        desk.close()

    async def third() -> None:
        desk = desk_at(tmp_path)
        assert desk.book.all() == []
        desk.close()

    for story in (first, second, third):
        asyncio.run(story())


def test_a_file_that_is_no_base_costs_no_receipt(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "receipts.sqlite").write_bytes(b"junk" * 100)
        desk = desk_at(tmp_path)
        desk.take(Receipts((receipt(SEEDS[0]),)), MIRROR, BOTH)
        assert len(desk.all()) == 1
        desk.close()

    asyncio.run(story())

"""Receipts by keys that nobody was given, and one that is none among good ones."""

import asyncio
import pickle
from pathlib import Path

import pytest

from firedoor.halt import receipt as receipts
from firedoor.halt.receipt import ReceiptBook, ReceiptPayload, read_receipt, seal_receipt
from firedoor.identity import Peer, Role
from firedoor.wire.messages import Receipts
from mirror.telemetry.receipts import ReceiptCollector
from tests.unit.firedoor.halt.test_receipts import FLEET, ORDER, SEEDS, id_of, receipt

MIRROR = Peer(id_of(SEEDS[4]), Role.MIRROR, "branch")
HONEST = Peer(id_of(SEEDS[0]), Role.AGENT, "branch")

INVENTED = 200


def seeds_of(order: int) -> list[bytes]:
    """Keys that were made up for one order."""
    return [bytes((order, number)) * 16 for number in range(INVENTED)]


def order_id(number: int) -> bytes:
    return bytes([number]) * 32


def said(order: bytes, seed: bytes, instance: int, moment: int) -> bytes:
    payload = ReceiptPayload(1, order, bytes([instance]) * 16, moment, 0, "nothing")
    return seal_receipt(payload, fleet=FLEET, seed=seed)


def fill(book: ReceiptBook, number: int) -> None:
    """Let every key of an order say that it is two machines."""
    order = order_id(number)
    for seed in seeds_of(number):
        for instance, moment in ((1, 10_000), (1, 20_000), (2, 11_000), (2, 21_000)):
            book.take(read_receipt(said(order, seed, instance, moment), FLEET))


def test_a_book_of_orders_that_are_over_is_as_large_as_an_empty_one() -> None:
    book = ReceiptBook()
    empty = len(pickle.dumps(book))
    fill(book, 1)
    book.keep_only(frozenset())
    assert book.clones == set()
    assert len(pickle.dumps(book)) <= empty + 64


def test_a_book_does_not_grow_with_each_order_that_is_over() -> None:
    book, first = ReceiptBook(), 0
    for number in range(1, 6):
        fill(book, number)
        book.keep_only(frozenset({order_id(number)}))
        first = first or len(pickle.dumps(book))
    assert len(pickle.dumps(book)) < 1.5 * first


@pytest.mark.parametrize("bad", [b"\xc0", bytes(512), receipt(SEEDS[1])[:-64] + bytes(64)])
def test_one_bad_receipt_costs_no_other_of_its_message(tmp_path: Path, bad: bytes) -> None:
    async def story() -> None:
        collector = ReceiptCollector(tmp_path / "receipts.sqlite", FLEET)
        good = (receipt(SEEDS[0]), receipt(SEEDS[2]))
        collector.take(Receipts((good[0], bad, good[1])), MIRROR, frozenset({ORDER}))
        assert set(collector.book.of(ORDER)) == {id_of(SEEDS[0]), id_of(SEEDS[2])}
        collector.close()

    asyncio.run(story())


def test_invented_receipts_leave_an_honest_endpoint_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "ENDPOINTS_MAX", INVENTED, raising=False)

    async def story() -> None:
        collector = ReceiptCollector(tmp_path / "receipts.sqlite", FLEET)
        junk = tuple(said(ORDER, seed, 1, 10_000) for seed in seeds_of(9))
        collector.take(Receipts(junk), MIRROR, frozenset({ORDER}))
        collector.take(Receipts((receipt(SEEDS[0]),)), HONEST, frozenset({ORDER}))
        assert HONEST.id in collector.book.of(ORDER)
        collector.close()

    asyncio.run(story())

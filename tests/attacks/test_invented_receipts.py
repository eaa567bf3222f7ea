"""One mirror brings receipts by keys that it has made up to another, which is not the origin."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from firedoor.halt.receipt import ReceiptPayload, seal_receipt
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import RECEIPTS_MAX, UNPROVED_PER_SENDER_MAX
from firedoor.wire.messages import Receipts
from firedoor.wire.stick import CARRIED_RECEIPTS_MAX
from mirror.airgap.carrying import Carrying, OfflineEnroller
from mirror.telemetry.receipts import ReceiptCollector
from tests.unit.firedoor.halt.test_receipts import FLEET, ORDER, SEEDS, id_of, receipt

pytestmark = pytest.mark.slow

STRANGER = Peer(PeerId("d" * 32), Role.MIRROR, "elsewhere")
HONEST = Peer(id_of(SEEDS[0]), Role.AGENT, "branch")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[ReceiptCollector]:
    made = ReceiptCollector(tmp_path / "receipts.sqlite", FLEET)
    yield made
    made.close()


def invented(count: int) -> list[bytes]:
    payload = ReceiptPayload(1, ORDER, bytes(16), 1, 0, "nothing")
    seeds = [number.to_bytes(32, "big") for number in range(1, count + 1)]
    return [seal_receipt(payload, fleet=FLEET, seed=each) for each in seeds]


def fill(collector: ReceiptCollector, count: int) -> None:
    made = invented(count)
    for at in range(0, count, RECEIPTS_MAX):
        message = Receipts(tuple(made[at : at + RECEIPTS_MAX]))
        collector.take(message, STRANGER, frozenset({ORDER}))


def carrying(collector: ReceiptCollector) -> Carrying:
    """The stick's place at a mirror that has nothing else for it."""
    carried = SimpleNamespace(questions=lambda: ())
    host = SimpleNamespace(
        settings=SimpleNamespace(me="b" * 32),
        node=SimpleNamespace(carried=carried),
    )
    renewal = SimpleNamespace(due_request=lambda: None)
    return Carrying(cast("Any", host), OfflineEnroller(b""), cast("Any", renewal), collector)


def test_one_sender_fills_no_mirror_with_receipts_of_nobody(collector: ReceiptCollector) -> None:
    fill(collector, 2 * UNPROVED_PER_SENDER_MAX)
    # As of reports: what nothing proves has a bound for each who brings it.
    assert len(collector.book.of(ORDER)) <= UNPROVED_PER_SENDER_MAX


def test_invented_receipts_leave_an_honest_one_its_place_on_the_stick(
    collector: ReceiptCollector,
) -> None:
    fill(collector, CARRIED_RECEIPTS_MAX)
    collector.take(Receipts((receipt(SEEDS[0]),)), HONEST, frozenset({ORDER}))
    outbound = asyncio.run(carrying(collector).outbound())
    assert receipt(SEEDS[0]) in outbound.receipts

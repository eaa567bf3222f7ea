"""One halt key and many orders at once: ranges over a product of many releases."""

import os
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest

from firedoor.effects import Effect, KeepDecision, KeepKnown
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.halt.reach import Decision
from firedoor.halt.scope import Subject
from firedoor.identity import FleetId
from firedoor.node.order_book import Kept
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.storage.order_log import DECIDED, ORDER, OrderLog
from firedoor.wire.codec import encode
from tests.attacks.test_republishing import FLEET, KEYIDS, SEEDS, START, node_of
from tests.unit.agent.guard.test_guard import current, home, record_halt, run
from tests.unit.origin_bench import Bench

__all__ = ["home"]

pytestmark = pytest.mark.slow

# limits.py reckons with 10,000 releases of a publisher; here a tenth of it.
RELEASES = 1000

# Every peer holds so many orders of a key at once.
AT_ONCE = 64

# Far below what a start may take, in which no order is heard.
START_MAX_S = 2.0

# The orders themselves are 16 kB.
DECISIONS_BYTES_MAX = 256 << 10

# As many as one key has committed in under three hours, and as many releases.
LOGGED = 1024
LOGGED_RELEASES = 2000


def subject(number: int) -> Subject:
    return Subject("app", str(number), sha256(b"%d" % number).digest(), counter=number)


def releases(count: int) -> dict[str, Subject]:
    return {sha256(b"m%d" % n).hexdigest(): subject(n) for n in range(1, count + 1)}


def range_payload(product: str, number: int) -> HaltPayload:
    """Level 1, and of all releases; none of the real counters need be in it for the cost."""
    return HaltPayload(1, os.urandom(16), f"{product}#1..{10**11 + number}", 1, 0, "x")


def a_range(number: int) -> bytes:
    keys = {KEYIDS["halt-1"]: SEEDS["halt-1"]}
    return seal("halt", range_payload("app", number), fleet=FLEET, keys=keys)[1]


def decided(effects: Iterable[Effect]) -> int:
    """How many bytes of decisions are to be kept."""
    return sum(len(each.record) for each in effects if isinstance(each, KeepDecision | KeepKnown))


def test_a_start_with_one_key_s_orders_takes_no_longer_than_one_without() -> None:
    """As a host starts: orders first, then all releases that are listed, in one turn."""
    node = node_of()
    node.restore(Kept(tuple(map(a_range, range(AT_ONCE)))), START)
    began = time.monotonic()
    node.learn(releases(RELEASES), START)
    took = time.monotonic() - began
    assert took < START_MAX_S


def test_one_key_s_decisions_stay_small() -> None:
    """What a halt names is kept for ever: in the log and, at a start, in memory."""
    node = node_of()
    node.learn(releases(RELEASES), START)
    size = sum(decided(node.submit(a_range(each), None, START)) for each in range(AT_ONCE))
    assert size < DECISIONS_BYTES_MAX


def test_the_guard_guards_whatever_one_halt_key_has_written_into_the_log(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_halt(bench, home, "app==2.0", 7)  # the honest one
    key = read_key_file(bench.fleet / "keys" / "halt-1.key", str)
    seeds = {key.keyid: key.signing_seed}
    named = tuple(sorted(subject(number).content for number in range(LOGGED_RELEASES)))
    log = OrderLog(home / "state" / "orders.log")
    for number in range(LOGGED):
        payload = range_payload("other", number)
        order, record = seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)
        log.append_all([(ORDER, record), (DECIDED, encode(Decision(order, None, named)))])
    log.close()
    run(home)
    assert current(home) == "1.0", capsys.readouterr().out

"""What a thief of one halt key has signed keeps no boot guard from its step for good.

A record that nobody understands is a halt of everything at level 4, so that the guard knows nothing
to go back to. Once people have lifted it, or revoked the key, the next halt of level 7 must be
obeyed; and what the agent understands the guard must understand, too.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from firedoor.halt.envelope import Envelope, Signature, seal
from firedoor.halt.order import Halt, HaltPayload, ResumePayload, RevokePayload, read_order
from firedoor.identity import FleetId
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.storage.order_log import ACTED, FORGOTTEN, ORDER, OrderLog
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import encode, pack
from tests.unit.agent.guard.test_guard import current, home, record_halt, run
from tests.unit.conftest import bench, new_fleet
from tests.unit.origin_bench import Bench

# In tests/attacks its conftest brings the first two.
__all__ = ["bench", "home", "new_fleet"]

pytestmark = pytest.mark.slow

THIEF = b"\7" * 32

Entries = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Doubtful:
    """A halt that no version understands, signed by the thief's key, and its fleet."""

    fleet: FleetId
    id: bytes
    record: bytes


def signed_by_the_thief(bench: Bench) -> Doubtful:
    fleet = FleetId(read_key_file(bench.fleet / "keys" / "halt-1.key", str).fleet)
    payload = HaltPayload(1, os.urandom(16), "planet:mars", 4, 0, "x")
    order, record = seal("halt", payload, fleet=fleet, keys={key_of(THIEF).keyid: THIEF})
    return Doubtful(fleet, order, record)


def sealed(kind: str, payload: object, fleet: FleetId) -> Entries:
    """An order of people, recorded, which has acted."""
    seeds = {key_of(seed).keyid: seed for seed in (b"\1" * 32, b"\2" * 32)}
    order, record = seal(kind, payload, fleet=fleet, keys=seeds)
    return [(ORDER, record), (ACTED, order)]


def revoked(doubtful: Doubtful) -> Entries:
    gone = RevokePayload(1, bytes(16), key_of(THIEF).keyid, (), 0, "stolen")
    return sealed("revoke", gone, doubtful.fleet)


def resumed(doubtful: Doubtful) -> Entries:
    return sealed("resume", ResumePayload(1, bytes(16), (doubtful.id,), 0, ""), doubtful.fleet)


def compacted(doubtful: Doubtful) -> Entries:
    return [(FORGOTTEN, doubtful.id)]


@pytest.mark.parametrize("ends", [revoked, resumed, compacted])
def test_a_halt_that_nobody_understood_and_people_have_ended_keeps_no_guard_from_its_step(
    bench: Bench, home: Path, ends: Callable[[Doubtful], Entries]
) -> None:
    doubtful = signed_by_the_thief(bench)
    log = OrderLog(home / "state" / "orders.log")
    log.append_all([(ORDER, doubtful.record), *ends(doubtful)])
    log.close()
    record_halt(bench, home, "app==2.0", 7)
    run(home)
    assert current(home) == "1.0"


def test_a_halt_that_the_agent_reads_as_harmless_keeps_no_guard_from_its_step(
    bench: Bench, home: Path
) -> None:
    fleet = FleetId(read_key_file(bench.fleet / "keys" / "halt-1.key", str).fleet)
    # Of a release that there never was, at level 1, without the one field that may be left out.
    said = {"version": 1, "nonce": bytes(16), "scope": "gone==0", "level": 1, "issued_at": 0}
    payload = pack(said | {"reason": "a test"})
    key = key_of(THIEF)
    value = sign(THIEF, signed_bytes(fleet, "halt", payload))
    record = encode(Envelope("halt", payload, (Signature(key.keyid, value),)))
    public = bytes.fromhex(key.keyval["public"])
    keys = {"halt": RoleKeys(1, {key.keyid: public})}
    order = read_order(record, Authority(fleet, 1, keys, is_fresh=True))
    assert isinstance(order, Halt)
    assert (order.is_doubtful, order.level, order.scope.text) == (False, 1, "gone==0")
    log = OrderLog(home / "state" / "orders.log")
    log.append_all([(ORDER, record)])
    log.close()
    record_halt(bench, home, "app==2.0", 7)
    run(home)
    assert current(home) == "1.0"

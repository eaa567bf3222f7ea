"""A mirror of any site that names another mirror's endpoints as those that it tells itself.

What it brings goes to them no later for that, nor does what the mirror's own upstream brings.
"""

import asyncio
from pathlib import Path

import pytest

from firedoor.identity import Peer, PeerId, Role
from firedoor.runtime.clocks import Clock
from firedoor.wire.messages import (
    Hello,
    Orders,
    Roster,
    RosterEntry,
    decode_message,
    encode_message,
)
from tests.attacks.one_mirror import OneMirror, Wire
from tests.attacks.timed_halts import BOUND_S, halt_of
from tests.unit.origin_bench import Bench

pytestmark = pytest.mark.slow

STRANGER = Peer(PeerId("d" * 32), Role.MIRROR, "elsewhere")
ENDPOINTS = [Peer(PeerId(f"{number:032x}"), Role.AGENT, "branch") for number in range(1, 6)]

# Beside the endpoints it names a thousand that do not exist.
NAMED = [*(each.id for each in ENDPOINTS), *(f"{number:032x}" for number in range(1000, 2000))]


def has(wire: Wire, record: bytes) -> bool:
    messages = [decode_message(frame) for frame in wire.sent]
    return any(isinstance(each, Orders) and record in each.records for each in messages)


def test_a_mirror_of_another_site_delays_no_halt_by_what_it_says_of_rosters(
    bench: Bench, tmp_path: Path
) -> None:
    _, record = halt_of(bench.fleet, "app==1.0")
    orders = encode_message(Orders((record,)))
    roster = encode_message(Roster(tuple(RosterEntry(each, "127.0.0.1", 1) for each in NAMED)))
    spans: list[float] = []

    async def story(mirror: OneMirror) -> None:
        hello = encode_message(Hello(mirror.host.node.orders.digest(), 1))
        wires = [Wire() for _ in ENDPOINTS]
        stranger = Wire()
        for peer, wire in [*zip(ENDPOINTS, wires, strict=True), (STRANGER, stranger)]:
            mirror.meet(peer, wire)
            wire.bring(hello)
        stranger.bring(roster)
        # Time for all of it to be believed.
        await asyncio.sleep(0.3)
        began = Clock().now()
        stranger.bring(orders)
        await asyncio.sleep(0.01)
        # The honest way is as quick as it ever was.
        mirror.above.bring(orders)
        await mirror.until(lambda: all(has(wire, record) for wire in wires))
        spans.append(Clock().now() - began)

    OneMirror(bench, tmp_path).run(story)
    assert spans[0] < BOUND_S

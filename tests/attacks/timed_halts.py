"""How long halts take from an operator's machine to an endpoint's disk, whatever else goes on."""

import asyncio
import os
from pathlib import Path

from firedoor.errors import Unavailable
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.wire.messages import Orders
from tests.attacks.hostile import Talk, soon
from tests.live.lab import LabSite

# On a quiet site it takes a tenth of this.
BOUND_S = 1.0

# Measured one after the other.
HALTS = 3

# What has not come by then does not come.
_GIVEN_UP_S = 40.0


def halt_of(fleet: Path, scope: str) -> tuple[bytes, bytes]:
    """Id and record of a fresh halt of level 4, by one key of this fleet's folder."""
    key = read_key_file(fleet / "keys" / "halt-1.key", str)
    payload = HaltPayload(1, os.urandom(16), scope, 4, Clock().unix(), "it is bad")
    return seal("halt", payload, fleet=FleetId(key.fleet), keys={key.keyid: key.signing_seed})


async def spans_of_halts(site: LabSite, talk: Talk, name: str) -> list[float]:
    """How long each of HALTS halts, said by `talk`, takes until this endpoint has recorded it.

    Infinity for one that does not come.
    """
    spans = []
    for _ in range(HALTS):
        # Of a version that no other halt is of.
        version = int.from_bytes(os.urandom(4), "big")
        order, record = halt_of(site.fleet, f"kiosk==9.{version}")
        # All programs of a lab share one boot-time clock.
        began = Clock().now()
        await talk.say(Orders((record,)))
        spans.append(await _recorded_at(site, name, order) - began)
        # So that each begins on a line that is at rest.
        await asyncio.sleep(0.3)
    return spans


async def _recorded_at(site: LabSite, name: str, order: bytes) -> float:
    found: list[float] = []

    async def is_recorded() -> bool:
        rows = (await site.status(name) or {}).get("orders", [])
        times = [row["recorded_at"] for row in rows if row["id"] == order.hex()]
        found.extend(each for each in times if each)
        return bool(found)

    try:
        await soon(site, f"{name} has recorded it", is_recorded, _GIVEN_UP_S)
    except Unavailable:
        return float("inf")
    return found[0]

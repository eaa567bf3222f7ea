"""A halt to sites whose thin lines are full of the very release that it halts.

* Each site is one mirror on a machine of its own (a network namespace), behind a shaped line whose
  queue holds `latency` at its rate, as a router's does. There is no other path, and no mDNS.
* The origin's line is not shaped. T0 is when the signed order exists; the harness hands it to the
  origin as `firedoor halt` does. Times are CLOCK_BOOTTIME of this machine.
* `queued_bytes` lay in a line's queue towards its site just before T0, packets of both
  conversations and of pieces together: an order waits for what lies before it. `line_use` is the
  share of a line's rate that was used in the seconds before; `full`: the lines that were full.
"""

import asyncio
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from firedoor.cli.client.order_delivery import give
from firedoor.cli.demo.local_fleet import Program
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from tests.bench.distribution import row_of
from tests.live.lab import ENROL_PORT, PORT, Lab, LabSite, Table, release_of

PRODUCT = "kiosk"
RELEASE_MIB = 8
BURST = "4k"
# Every line has carried so much by then, and its sender has found the line's pace.
UNDER_WAY_S = 10.0
WINDOW_S = 4.0
FULL_SHARE = 0.9
SATURATED_BYTES = 64 << 10

# An order that is not there by then counts as late by this much.
WATCH_S = 8.0
STEP_S = 240.0


@dataclass(frozen=True, slots=True)
class Queue:
    """Of one line: bytes that wait, bytes and drops so far, bytes a second that it carries."""

    waiting: int
    sent: int
    dropped: int
    rate: int


class ThinLab:
    """A fleet on thin lines. `ports`: the switch's end of each site's line."""

    def __init__(self, lab: Lab, folder: Path, *, rate: str, latency: str) -> None:
        self.lab = lab
        self.site = LabSite(folder, lab)
        self.rate = rate
        self.latency = latency
        self.ports: list[str] = []
        self.names: list[str] = []

    async def begin(self, sites: int) -> None:
        """Start the origin and the sites' mirrors."""
        prefix, address = self.lab.host("origin")
        await self.site.init(f"{address}:{PORT}", f"{address}:{ENROL_PORT}", prefix=prefix)
        await self.site.start("origin")
        self.names = [f"site-{number}" for number in range(sites)]
        programs = [self._program(name, f"{address}:{PORT}") for name in self.names]
        await asyncio.gather(*(self.site.add(each, site=each.name) for each in programs))
        await asyncio.gather(*(self.site.start(name) for name in self.names))

    def _program(self, name: str, upstream: str) -> Program:
        queue = ("burst", BURST, "latency", self.latency)
        prefix, address = self.lab.host(name, rate=self.rate, queue=queue)
        self.ports.append(f"port{self.lab._hosts}")
        options: Table = {"upstream": [upstream], "lease": "thin-wan", "mdns": []}
        folder = self.site.folder / name
        return Program(name, Role.MIRROR, f"{address}:{PORT}", folder, prefix, options)

    def look(self) -> list[Queue]:
        """What is in front of each line towards its site."""
        command = ["tc", "-n", self.lab._switch, "-s", "-j", "qdisc", "show", "dev"]
        found = []
        for port in self.ports:
            said = subprocess.run([*command, port], check=True, capture_output=True, text=True)
            (row,) = json.loads(said.stdout)
            found.append(Queue(row["backlog"], row["bytes"], row["drops"], row["options"]["rate"]))
        return found


def measure(folder: Path, *, sites: int, rate: str, latency: str) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    with Lab() as lab:
        thin = ThinLab(lab, folder, rate=rate, latency=latency)

        async def story() -> dict[str, Any]:
            try:
                await thin.begin(sites)
                return await _halted(thin)
            except BaseException:
                print(thin.site.logs())
                raise
            finally:
                await thin.site.close()

        return asyncio.run(story())


async def _halted(thin: ThinLab) -> dict[str, Any]:
    site, sites = thin.site, len(thin.names)
    await site.publish(PRODUCT, "1", RELEASE_MIB << 20)

    async def is_under_way() -> bool:
        # Asked at the origin alone: an answer over a thin line would take a part of it.
        status = await site.status("origin")
        return status is not None and status["bytes"]["sent"] >= SATURATED_BYTES * sites

    await site.until("all lines are under way", is_under_way, STEP_S)
    await asyncio.sleep(UNDER_WAY_S - WINDOW_S)
    early, began = thin.look(), Clock().now()
    await asyncio.sleep(WINDOW_S)
    late, span = thin.look(), Clock().now() - began
    use = [(b.sent - a.sent) / span / b.rate for a, b in zip(early, late, strict=True)]
    begin, order = await _halt(site)
    await asyncio.sleep(WATCH_S)
    statuses = await site.until_all(
        "all have recorded the halt", thin.names, lambda each: _row(each, order) is not None
    )
    rows = [row for name in thin.names if (row := _row(statuses[name], order)) is not None]
    recorded = [row["recorded_at"] - begin for row in rows]
    full = [span for span, share in zip(recorded, use, strict=True) if share >= FULL_SHARE]
    return {
        "sites": sites,
        "rate": thin.rate,
        "latency": thin.latency,
        "closed_ms": row_of([row["closed_at"] - begin for row in rows]),
        "recorded_ms": row_of(recorded),
        "full": {"sites": len(full), "recorded_ms": row_of(full)},
        "line_use": {"median": round(median(use), 2), "min": round(min(use), 2)},
        "queued_bytes": {
            "median": median(each.waiting for each in late),
            "max": max(each.waiting for each in late),
        },
        "lines_with_drops": sum(each.dropped > 0 for each in late),
        "sites_with_all_of_it": sum(_is_whole(statuses[name]) for name in thin.names),
    }


async def _halt(site: LabSite) -> tuple[float, str]:
    """Sign a halt of the release and hand it to the origin; T0 and the order's id."""
    key = read_key_file(site.fleet / "keys" / "halt-1.key", str)
    payload = HaltPayload(1, os.urandom(16), f"{PRODUCT}==1", 4, Clock().unix(), "it is bad")
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    order_id, order = seal(
        "halt", payload, fleet=FleetId(key.fleet), keys={key.keyid: key.signing_seed}
    )
    begin = Clock().now()
    try:
        await give(client, split_address(site.programs["origin"].address), order, order_id)
    finally:
        await client.close()
    return begin, order_id.hex()


def _is_whole(status: Table) -> bool:
    row = release_of(status, PRODUCT)
    return bool(row) and row["pieces_have"] == row["pieces_total"]


def _row(status: Table, order: str) -> Table | None:
    rows = [row for row in status["orders"] if row["id"] == order and row["is_recorded"]]
    return rows[0] if rows else None

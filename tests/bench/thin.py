"""A halt to sites whose thin lines are full of the very release that it halts.

* Each site is one mirror on a machine of its own (a network namespace), behind a shaped line whose
  queue holds LATENCY at its rate, as a router's does. There is no other path, and no mDNS.
* The origin's line is not shaped. T0 is when the signed order exists; the harness hands it to the
  origin as `firedoor halt` does. Times are CLOCK_BOOTTIME of this machine.
* `queued_bytes` lay in a line's queue towards its site just before T0, packets of both
  conversations and of pieces together: an order waits for what lies before it.
"""

import asyncio
import os
import re
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from firedoor.cli.handing import give
from firedoor.cli.site import Program
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.key_files import read_key_file
from firedoor.runtime.pacing import Budget
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.runtime.tls import credentials_of
from tests.bench.distribution import row_of
from tests.live.lab import ENROL_PORT, PORT, Lab, LabSite, Table

PRODUCT = "kiosk"
RELEASE_MIB = 8
BURST = "4k"
LATENCY = "400ms"

# Every line has carried so much by then, and its sender has found the line's pace.
UNDER_WAY_S = 10.0
SATURATED_BYTES = 64 << 10

# An order that is not there by then counts as late by this much.
WATCH_S = 8.0
STEP_S = 240.0


class ThinLab:
    """A fleet on thin lines. `ports`: the switch's end of each site's line."""

    def __init__(self, lab: Lab, folder: Path, rate: str) -> None:
        self.lab = lab
        self.site = LabSite(folder, lab)
        self.rate = rate
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
        queue = ("burst", BURST, "latency", LATENCY)
        prefix, address = self.lab.host(name, rate=self.rate, queue=queue)
        self.ports.append(f"port{self.lab._hosts}")
        options: Table = {"upstream": [upstream], "lease": "thin-wan", "mdns": []}
        folder = self.site.folder / name
        return Program(name, Role.MIRROR, f"{address}:{PORT}", folder, prefix, options)

    def queued(self) -> list[tuple[int, int]]:
        """Bytes that wait in front of each line towards its site, and packets dropped there."""
        command = ["tc", "-n", self.lab._switch, "-s", "qdisc", "show", "dev"]
        found = []
        for port in self.ports:
            said = subprocess.run([*command, port], check=True, capture_output=True, text=True)
            backlog = re.search(r"backlog (\d+)(K?)b", said.stdout)
            dropped = re.search(r"dropped (\d+)", said.stdout)
            assert backlog is not None
            assert dropped is not None
            kilo = 1024 if backlog[2] else 1
            found.append((int(backlog[1]) * kilo, int(dropped[1])))
        return found


def measure(folder: Path, *, sites: int, rate: str) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    with Lab() as lab:
        thin = ThinLab(lab, folder, rate)

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
    await asyncio.sleep(UNDER_WAY_S)
    queued = thin.queued()
    begin, order = await _halt(site)
    await asyncio.sleep(WATCH_S)
    after = thin.queued()
    statuses = await site.until_all(
        "all have recorded the halt", thin.names, lambda each: _row(each, order) is not None
    )
    rows = [row for each in statuses.values() if (row := _row(each, order)) is not None]
    held = [each["releases"][0] for each in statuses.values() if each["releases"]]
    return {
        "sites": sites,
        "rate": thin.rate,
        "closed_ms": row_of([row["closed_at"] - begin for row in rows]),
        "recorded_ms": row_of([row["recorded_at"] - begin for row in rows]),
        "queued_bytes": {
            "median": median(size for size, _ in queued),
            "max": max(size for size, _ in queued),
        },
        "lines_with_drops_before": sum(dropped > 0 for _, dropped in queued),
        "packets_dropped": sum(dropped for _, dropped in after),
        "whole": sum(row["pieces_have"] == row["pieces_total"] for row in held),
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


def _row(status: Table, order: str) -> Table | None:
    rows = [row for row in status["orders"] if row["id"] == order and row["is_recorded"]]
    return rows[0] if rows else None

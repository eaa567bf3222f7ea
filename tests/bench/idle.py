"""What a site costs while nothing happens: bytes on both kinds of line, and CPU.

* Every program is on a machine of its own (a network namespace) on one cable; mDNS and multicast
  are on, as in a small office.
* Bytes are whole IP packets, both directions, their headers counted. WAN: what goes between the
  origin and the mirror, told apart by address on the origin's machine. LAN: all that goes over an
  endpoint's line, so what is said to everybody counts at each.
* Measured once all run one small product, and every lease that was looked for has been forgotten.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from firedoor.runtime.settings import split_address
from tests.bench.halt import cpu_of
from tests.bench.loss import nft_path
from tests.live.lab import LabSite, tell

PRODUCT = "kiosk"
PAYLOAD_BYTES = 20_000

# A node seeks a lease for a minute after it was last refused for want of one (halt/lease.py).
SETTLE_S = 75.0

# In front of each IP packet on a cable; Linux counts it with the bytes of an interface.
ETHERNET_BYTES = 14

_COUNTERS = """\
table ip firedoor_bench {{
  chain input {{
    type filter hook input priority 0;
    ip saddr {mirror} counter
  }}
  chain output {{
    type filter hook output priority 0;
    ip daddr {mirror} counter
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment. `lan`, `cpu`: by name of the program."""

    at: float
    wan: int
    lan: Mapping[str, int]
    cpu: Mapping[str, float]


def measure(folder: Path, *, agents: int, seconds: float) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    table: dict[str, Any] = {}

    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(agents, [PRODUCT])
        await site.start_all(names)
        await site.publish(PRODUCT, "1", PAYLOAD_BYTES)
        await site.until_running(PRODUCT, "1", names)
        _count_wan(site)
        await asyncio.sleep(SETTLE_S)
        before = _read(site)
        await asyncio.sleep(seconds)
        table.update(_table(before, _read(site), names))

    tell(folder, story)
    return table


def _table(before: Reading, after: Reading, names: list[str]) -> dict[str, Any]:
    span = after.at - before.at
    lan = [(after.lan[name] - before.lan[name]) / span for name in names]
    cpu = {name: (after.cpu[name] - before.cpu[name]) / span for name in after.cpu}
    return {
        "agents": len(names),
        "seconds": round(span, 1),
        "wan_bytes_per_s": round((after.wan - before.wan) / span, 1),
        "lan_bytes_per_s": round(mean(lan), 1),
        "lan_bytes_per_s_max": round(max(lan), 1),
        "agent_cpu_share": round(mean(cpu[name] for name in names), 5),
        "agent_cpu_share_max": round(max(cpu[name] for name in names), 5),
        "mirror_cpu_share": round(cpu["mirror"], 5),
        "origin_cpu_share": round(cpu["origin"], 5),
    }


def _count_wan(site: LabSite) -> None:
    mirror, _ = split_address(site.programs["mirror"].address)
    rules = _COUNTERS.format(mirror=mirror)
    nft = [*site.programs["origin"].prefix, nft_path(), "-f", "-"]
    subprocess.run(nft, input=rules, text=True, check=True)


def _read(site: LabSite) -> Reading:
    running = {each.name: each.process.pid for each in site.programs.values() if each.process}
    return Reading(
        time.monotonic(),
        _wan(site.programs["origin"].prefix),
        {name: _lan(site.programs[name].prefix) for name in running},
        {name: cpu_of(pid) for name, pid in running.items()},
    )


def _wan(prefix: tuple[str, ...]) -> int:
    listed = json.loads(_said(*prefix, nft_path(), "-j", "list", "table", "ip", "firedoor_bench"))
    rules = [each["rule"] for each in listed["nftables"] if "rule" in each]
    counters = [part["counter"] for rule in rules for part in rule["expr"] if "counter" in part]
    return sum(each["bytes"] for each in counters)


def _lan(prefix: tuple[str, ...]) -> int:
    (line,) = json.loads(_said(*prefix, "ip", "-s", "-j", "link", "show", "dev", "eth0"))
    ways = (line["stats64"]["rx"], line["stats64"]["tx"])
    return sum(way["bytes"] - ETHERNET_BYTES * way["packets"] for way in ways)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

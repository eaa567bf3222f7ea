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

# Who talks, in both directions; the first rule that fits counts.
_COUNTERS = """\
table inet firedoor_bench {{
  chain parts {{
    ip saddr {mirror} counter accept comment "mirror"
    ip daddr {mirror} counter accept comment "mirror"
    udp dport 5353 counter accept comment "mdns"
    meta l4proto tcp counter accept comment "endpoints"
    counter accept comment "other"
  }}
  chain input {{
    type filter hook input priority 0;
    iif eth0 jump parts
  }}
  chain output {{
    type filter hook output priority 0;
    oif eth0 jump parts
  }}
}}
"""

Parts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment. `lan`, `parts`, `cpu`: by name of the program."""

    at: float
    lan: Mapping[str, int]
    parts: Mapping[str, Parts]
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
        for name in ("origin", *names):
            _count(site, name)
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

    def rates(name: str) -> dict[str, float]:
        early, late = before.parts[name], after.parts[name]
        return {part: round((late[part] - early[part]) / span, 1) for part in late}

    return {
        "agents": len(names),
        "seconds": round(span, 1),
        "wan_bytes_per_s": rates("origin")["mirror"],
        "lan_bytes_per_s": round(mean(lan), 1),
        "lan_bytes_per_s_max": round(max(lan), 1),
        "lan_bytes_per_s_without_arp": round(mean(sum(rates(name).values()) for name in names), 1),
        "lan_bytes_per_s_of_one": rates(names[0]),
        "agent_cpu_share": round(mean(cpu[name] for name in names), 5),
        "agent_cpu_share_max": round(max(cpu[name] for name in names), 5),
        "mirror_cpu_share": round(cpu["mirror"], 5),
        "origin_cpu_share": round(cpu["origin"], 5),
    }


def _count(site: LabSite, name: str) -> None:
    mirror, _ = split_address(site.programs["mirror"].address)
    nft = [*site.programs[name].prefix, nft_path(), "-f", "-"]
    subprocess.run(nft, input=_COUNTERS.format(mirror=mirror), text=True, check=True)


def _read(site: LabSite) -> Reading:
    running = {each.name: each.process.pid for each in site.programs.values() if each.process}
    return Reading(
        time.monotonic(),
        {name: _lan(site.programs[name].prefix) for name in running},
        {name: _parts(site.programs[name].prefix) for name in running if name != "mirror"},
        {name: cpu_of(pid) for name, pid in running.items()},
    )


def _parts(prefix: tuple[str, ...]) -> Parts:
    table = ("list", "table", "inet", "firedoor_bench")
    listed = json.loads(_said(*prefix, nft_path(), "-j", *table))
    parts: Parts = {}
    for rule in (each["rule"] for each in listed["nftables"] if "comment" in each.get("rule", {})):
        (counter,) = (each["counter"] for each in rule["expr"] if "counter" in each)
        parts[rule["comment"]] = parts.get(rule["comment"], 0) + counter["bytes"]
    return parts


def _lan(prefix: tuple[str, ...]) -> int:
    (line,) = json.loads(_said(*prefix, "ip", "-s", "-j", "link", "show", "dev", "eth0"))
    ways = (line["stats64"]["rx"], line["stats64"]["tx"])
    return sum(way["bytes"] - ETHERNET_BYTES * way["packets"] for way in ways)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

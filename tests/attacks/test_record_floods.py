"""Packets of mDNS full of records, by any machine of the LAN, and the halts that come meanwhile."""

import asyncio
import sys
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import read_key_file
from tests.attacks.burdens import cpu_s_of, pid_of, running
from tests.attacks.hostile import talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Of 8 kB each: four megabits a second.
PER_S = 60

FLOOD = """
import os, socket, struct, sys, time

address, per_s, fleet = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
KIND = b"\\x07_mirror\\x04_sub\\x09_firedoor\\x04_tcp\\x05local\\x00"

def row(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 0x8001 if kind != 12 else 1, 4500, len(data)) + data

def packet():
    # Mirrors that do not exist, whole, each at an address of its own; KIND stands at offset 12.
    body, count, owner = b"", 0, KIND
    while len(body) < 8600:
        peer = os.urandom(16).hex().encode()
        name_at = 12 + len(body) + len(owner) + 10
        body += row(owner, 12, b"\\x20" + peer + b"\\xc0\\x0c")
        owner, name = b"\\xc0\\x0c", struct.pack(">H", 0xC000 | name_at)
        body += row(name, 33, struct.pack(">3H", 0, 0, 7443) + name)
        facts = (b"fleet=" + fleet, b"role=mirror", b"id=" + peer)
        body += row(name, 16, b"".join(bytes([len(each)]) + each for each in facts))
        body += row(name, 1, b"\\x0a" + os.urandom(3))
        count += 4
    return struct.pack(">6H", 0, 0x8400, 0, count, 0, 0) + body

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.bind((address, 5353))
    ready = [packet() for _ in range(512)]
    print("begun", flush=True)
    began, sent = time.monotonic(), 0
    while True:
        sender.sendto(ready[sent % 512], ("224.0.0.251", 5353))
        sent += 1
        ahead = sent / per_s - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
"""


def test_packets_full_of_records_delay_no_halt(tmp_path: Path) -> None:
    """Whatever the LAN announces, orders have their turn."""

    async def story(site: LabSite) -> None:
        await site.begin()
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        prefix, address = site._lab.host("attacker")
        command = (sys.executable, "-c", FLOOD, address, str(PER_S), operator.fleet)
        async with talking(operator, site.programs["origin"].address, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            async with running(*command, prefix=prefix) as said:
                await said.readline()
                await asyncio.sleep(3.0)
                before = [cpu_s_of(pid_of(site, each)) for each in ("mirror", honest)]
                halts = await spans_of_halts(site, talk, honest)
                after = [cpu_s_of(pid_of(site, each)) for each in ("mirror", honest)]
        print(f"quiet {quiet}, halts {halts}, CPU {before} to {after}")
        assert max(quiet) < BOUND_S
        assert max(halts) < BOUND_S

    tell(tmp_path, story)

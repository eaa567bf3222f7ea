"""Machines that do not exist, announced by one machine of the LAN at many addresses of its own."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from firedoor.runtime.keys.key_files import read_key_file
from tests.attacks.burdens import operators_address, running
from tests.attacks.test_spoofed_neighbours import SPAN_S, until_connected
from tests.attacks.timed_halts import BOUND_S
from tests.live.lab import NETWORK, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

ADDRESSES = [f"{NETWORK}.{number}" for number in range(50, 250)]


SPOOF = """
import asyncio, socket, sys
from tests.attacks.spoofer import GROUP, packets, say, swallow

async def main(fleet, addresses):
    loud = []
    for at, address in enumerate(addresses):
        machines = [(f"{at * 12 + each:032x}", "mirror") for each in range(12)]
        loud += packets(address, fleet, machines)
    server = await asyncio.start_server(swallow, "0.0.0.0", 7443, backlog=4096)
    async with server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            where = socket.inet_aton(addresses[0])
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, where)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sender.bind((addresses[0], GROUP[1]))
            await say(sender, loud, first="said")

asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


def take_addresses(prefix: Sequence[str]) -> None:
    """Let a machine of a lab have all of ADDRESSES."""
    for each in ADDRESSES:
        words = [*prefix, "ip", "address", "add", f"{each}/24", "dev", "eth0"]
        subprocess.run(words, check=True)  # it is the attacker's


@asynccontextmanager
async def spoofed(site: LabSite) -> AsyncIterator[None]:
    """Two thousand mirrors that do not exist are announced, a dozen at each address."""
    prefix, address = site._lab.host("attacker")
    take_addresses(prefix)
    fleet = read_key_file(site.fleet / "keys" / "operator.key", str).fleet
    command = (sys.executable, "-c", SPOOF, fleet, address, *ADDRESSES)
    async with running(*command, prefix=prefix) as said:
        assert await said.readline() == b"said\n"
        yield


def halt_key(site: LabSite, origin: str) -> Path:
    """A halt key's file that knows this origin and the LAN."""
    plain = json.loads((site.fleet / "keys" / "halt-1.key").read_text("utf-8"))
    key = site.folder / "halt.key"
    found_by = {"origin": origin, "mdns": [operators_address()]}
    key.write_text(json.dumps(plain | found_by), "utf-8")
    return key


async def span_of_halt(site: LabSite, key: Path, scope: str) -> float:
    """From the start of the command to the origin's disk."""
    began = time.monotonic()
    words = ("--reason", "it is bad", "--key", str(key), "--wait", "15")
    await site.firedoor("halt", scope, *words)
    status = await site.status("origin") or {}
    span: float = time.monotonic() - began
    [row] = [each for each in status["orders"] if each["scope"] == scope]
    recorded_at: float = row["recorded_at"]
    said_at: float = status["now"]
    return span - (said_at - recorded_at)


def test_a_fresh_endpoint_finds_its_mirror_among_fakes_of_many_addresses(tmp_path: Path) -> None:
    """What is bounded for each address has no bound for who has many."""

    async def story(site: LabSite) -> None:
        await site.begin()
        [name] = await site.enrol(1, ["kiosk"])
        async with spoofed(site):
            await site.start(name)
            await until_connected(site, name, SPAN_S)

    tell(tmp_path, story)


def test_a_halt_reaches_a_site_by_mdns_among_fakes_of_many_addresses(tmp_path: Path) -> None:
    """An operator whose key file names no origin still finds the site's mirror."""

    async def story(site: LabSite) -> None:
        await site.begin()
        async with spoofed(site):
            words = ("--reason", "it is bad", "--key", str(halt_key(site, "")), "--wait", "15")
            await site.firedoor("halt", "kiosk", *words)
            await site.until_halted(["mirror"])

    tell(tmp_path, story)


def test_a_halt_does_not_wait_for_mdns_before_it_goes_to_the_origin(tmp_path: Path) -> None:
    """Where the key file names an origin, the order leaves for it at once."""

    async def story(site: LabSite) -> None:
        await site.begin_origin()
        origin = site.programs["origin"].address
        quiet = await span_of_halt(site, site.fleet / "keys" / "halt-1.key", "kiosk==1.0")
        async with spoofed(site):
            spoofed_at = await span_of_halt(site, halt_key(site, origin), "kiosk==2.0")
        print(f"recorded at the origin after {quiet:.1f} s, and {spoofed_at:.1f} s among fakes")
        assert spoofed_at - quiet < BOUND_S

    tell(tmp_path, story)

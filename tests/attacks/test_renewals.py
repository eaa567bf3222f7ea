"""Certificates that are asked for without end, of a mirror whose own line is thin.

A mirror hands each request up, and orders come down by the same line.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from firedoor.errors import FiredoorError
from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import make_request
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from tests.attacks.burdens import any_context
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import ENROL_PORT, MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Requests at once; a certificate has so many connections.
AT_ONCE = 60

# Of the line between mirror and origin, each way; the LAN of attacker and mirror is another.
RATE = "256kbit"


async def begin(site: LabSite) -> str:
    """An origin behind a thin line, a mirror with both ports, and one honest endpoint; its name."""
    await site.begin_origin(rate=RATE)
    upstream = [site.programs["origin"].address]
    mirror = site.program("mirror", Role.MIRROR, {"upstream": upstream})
    mirror.options["enrol_listen"] = f"{mirror.address.rpartition(':')[0]}:{ENROL_PORT}"
    await site.add(mirror)
    await site.start("mirror")
    [honest] = await site.enrol(1, ["kiosk"], mirrors=[mirror.address])
    await site.start(honest)
    await site.publish("kiosk", "1.0", MIB // 16)
    await site.until_running("kiosk", "1.0", [honest])
    return honest


@asynccontextmanager
async def renewing(key: KeyFile, address: str) -> AsyncIterator[list[int]]:
    """Ask again and again; how often an answer came."""
    host, port = split_address(address)
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    body, count = make_request(key.tls_seed), [0]

    async def forever() -> None:
        while True:
            with suppress(FiredoorError):
                await client.post(host, port, "/v1/renew", body, limit=MIB)
                count[0] += 1
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(forever()) for _ in range(AT_ONCE)]
    try:
        yield count
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


def test_renewals_through_a_mirror_delay_no_halt_on_its_thin_line(tmp_path: Path) -> None:
    """What an endpoint asks its mirror for fills no line that orders come by."""

    async def story(site: LabSite) -> None:
        honest = await begin(site)
        key = await stolen(site, "thief", Role.AGENT)
        path = site.fleet / "keys" / "operator.key"
        operator, origin = read_key_file(path, str), site.programs["origin"].address
        async with talking(operator, origin, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            async with renewing(key, site.programs["mirror"].address) as count:
                await asyncio.sleep(5.0)
                began, before = time.monotonic(), count[0]
                halts = await spans_of_halts(site, talk, honest)
                rate = (count[0] - before) / (time.monotonic() - began)
        print(f"quiet {quiet}, halts {halts}, {rate:.0f} renewals a second")
        assert max(quiet) < BOUND_S
        assert max(halts) < BOUND_S

    tell(tmp_path, story)


@asynccontextmanager
async def enrolling(address: str) -> AsyncIterator[list[int]]:
    """A machine without a certificate guesses tokens; how often it was answered."""
    count = [0]
    body = json.dumps({"secret": "x" * 43, "request": "x" * 8000})

    async def forever(session: aiohttp.ClientSession) -> None:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.post(f"https://{address}/enrol", data=body) as response:
                    await response.read()
                    count[0] += 1
            await asyncio.sleep(0)

    connector = aiohttp.TCPConnector(ssl=any_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.ensure_future(forever(session)) for _ in range(AT_ONCE)]
        try:
            yield count
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_enrolments_through_a_mirror_delay_no_halt_on_its_thin_line(tmp_path: Path) -> None:
    """Whoever has no certificate at all fills no line that orders come by."""

    async def story(site: LabSite) -> None:
        honest = await begin(site)
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        origin, mirror = (site.programs[each].address for each in ("origin", "mirror"))
        enrol = f"{mirror.rpartition(':')[0]}:{ENROL_PORT}"
        async with talking(operator, origin, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            async with enrolling(enrol) as count:
                await asyncio.sleep(5.0)
                halts = await spans_of_halts(site, talk, honest)
        print(f"quiet {quiet}, halts {halts}, {count[0]} answers")
        assert max(quiet) < BOUND_S
        assert max(halts) < BOUND_S

    tell(tmp_path, story)

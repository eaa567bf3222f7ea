"""A mirror of another site dials an endpoint and names neighbours to it, thousands of them."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.limits import ROSTER_MAX
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.wire.messages import Roster, RosterEntry, encode_message
from tests.attacks.hostile import HERE, stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Each names so many that no other has named.
ROSTERS = 64

# An honest endpoint looks at news of neighbours at once.
SPAN_S = 5.0


def roster(number: int) -> bytes:
    """Machines that do not exist, each at an address of its own."""
    first = number * ROSTER_MAX
    entries = [
        RosterEntry(f"{each:032x}", f"10.77.1.{200 + each % 50}", 1 + each // 50)
        for each in range(first, first + ROSTER_MAX)
    ]
    return encode_message(Roster(tuple(entries)))


async def running_endpoint(site: LabSite) -> str:
    """One endpoint that has its mirror from its settings and runs a release."""
    await site.begin()
    mirrors = [site.programs["mirror"].address]
    [honest] = await site.enrol(1, ["kiosk"], mirrors=mirrors)
    await site.start(honest)
    await site.publish("kiosk", "1.0", MIB // 4)
    await site.until_running("kiosk", "1.0", [honest])
    return honest


def test_an_endpoint_dials_nobody_whom_a_mirror_of_another_site_names(tmp_path: Path) -> None:
    """A roster is the word of a mirror that gives to this endpoint, and of no other."""

    async def story(site: LabSite) -> None:
        honest = await running_endpoint(site)
        key = await stolen(site, "thief", Role.MIRROR, place="elsewhere")
        knocked = asyncio.Event()

        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            knocked.set()
            writer.close()

        server = await asyncio.start_server(refuse, HERE, 0)
        port = int(server.sockets[0].getsockname()[1])
        named = Roster((RosterEntry("f" * 32, HERE, port),))
        address = site.programs[honest].address
        async with server, talking(key, address, Role.AGENT, is_beating=True) as talk:
            await talk.say(named)
            with suppress(TimeoutError):
                async with asyncio.timeout(SPAN_S):
                    await knocked.wait()
        assert not knocked.is_set()

    tell(tmp_path, story)


def test_rosters_of_a_mirror_of_another_site_delay_no_halt(tmp_path: Path) -> None:
    """However many neighbours it names, an order is recorded as soon as ever."""

    async def story(site: LabSite) -> None:
        honest = await running_endpoint(site)
        key = await stolen(site, "thief", Role.MIRROR, place="elsewhere")
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        frames = [roster(number) for number in range(ROSTERS)]
        address = site.programs[honest].address
        async with talking(operator, site.programs["origin"].address, Role.MIRROR) as halting:
            quiet = await spans_of_halts(site, halting, honest)
            async with talking(key, address, Role.AGENT, is_beating=True) as talk:
                flood = asyncio.ensure_future(talk.flood(frames, per_s=1000))
                await asyncio.sleep(3.0)
                flooded = await spans_of_halts(site, halting, honest)
                is_over = talk.is_over
                flood.cancel()
                await asyncio.wait({flood})
        print(f"quiet {quiet}, flooded {flooded}, the talk is over: {is_over}")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

"""Reports as fast as one endpoint can say them, and the thin line above its mirror."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.wire.messages import Health, ProductHealth, Report, encode_message
from tests.attacks.hostile import id_of, soon, stolen, talking, times_synced
from tests.live.lab import LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# What leads up from the site; the reports below ask for ten times as much.
WAN = "2mbit"
REPORTS_PER_S = 3000

# Long enough to fill every queue on the way.
FLOOD_S = 5.0

# Of so many halts, half are on the endpoint's disk within this; on a quiet site, within 0.1 s.
HALTS = 3
RECORDED_S = 1.0

# What a site of two may send up meanwhile: beats, leases, two reports a second.
QUIET_BYTES_PER_S = 16 << 10


async def begin(site: LabSite, wan: str) -> str:
    """An origin behind a thin line, a mirror, and one honest endpoint there; its name."""
    await site.begin_origin(rate=wan)
    upstream = [site.programs["origin"].address]
    await site.add(site.program("mirror", Role.MIRROR, {"upstream": upstream}))
    await site.start("mirror")
    [honest] = await site.enrol(1, ["kiosk"])
    await site.start(honest)
    return honest


def reports_of(key: KeyFile) -> list[bytes]:
    """Reports of an honest size, no two of which are the same."""
    products = [ProductHealth("kiosk", f"{number}.0", "ab" * 32, "idle") for number in range(64)]
    more = tuple(ProductHealth(f"other-{number}", "1.0", "cd" * 32, "idle") for number in range(6))
    reports = [Report(key.name, "agent", "branch", (each, *more), ()) for each in products]
    return [encode_message(Health((each,))) for each in reports]


async def flooded(site: LabSite, key: KeyFile, story: Callable[[], Awaitable[None]]) -> None:
    """What goes on while the mirror is flooded with reports."""
    async with talking(key, site.programs["mirror"].address, Role.MIRROR) as talk:
        flood = asyncio.ensure_future(talk.flood(reports_of(key), per_s=REPORTS_PER_S))
        try:
            await story()
        finally:
            flood.cancel()
            with suppress(asyncio.CancelledError):
                await flood


async def received_by(site: LabSite, name: str) -> int:
    """Bytes that came in on a program's line since it was made."""
    path = "/sys/class/net/eth0/statistics/rx_bytes"
    command = (*site.programs[name].prefix, "cat", path)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return int(out)


def test_reports_of_one_endpoint_do_not_go_up_as_fast_as_they_come(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await begin(site, "")
        key = await stolen(site, "bad", Role.AGENT)

        async def look() -> None:
            before = await received_by(site, "origin")
            # Time itself is what a rate is measured over.
            await asyncio.sleep(FLOOD_S)
            came = await received_by(site, "origin") - before
            assert came < QUIET_BYTES_PER_S * FLOOD_S

        await flooded(site, key, look)

    tell(tmp_path, story)


def test_a_flood_of_reports_ends_no_line_and_delays_no_order(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        honest = await begin(site, WAN)
        origin = await id_of(site, "origin")
        key = await stolen(site, "bad", Role.AGENT)

        async def look() -> None:
            await asyncio.sleep(FLOOD_S)
            for number in range(HALTS):
                await site.halt(f"kiosk=={number}", at="origin")
            await soon(site, "all are recorded below", all_recorded)
            # All programs of a lab share one boot-time clock.
            given, kept = await times(site, "origin"), await times(site, honest)
            spans = sorted(kept[each][1] - given[each][0] for each in given)
            print("from the origin to the endpoint's disk:", spans)
            assert times_synced(site, "mirror", origin) == 1
            assert spans[HALTS // 2] < RECORDED_S

        async def all_recorded() -> bool:
            return len(await times(site, honest)) == HALTS

        await flooded(site, key, look)

    tell(tmp_path, story)


async def times(site: LabSite, name: str) -> dict[str, tuple[float, float]]:
    """When this program was closed by each order that it has recorded, and when it had."""
    rows = (await site.status(name) or {}).get("orders", [])
    return {row["id"]: (row["closed_at"], row["recorded_at"]) for row in rows if row["is_recorded"]}

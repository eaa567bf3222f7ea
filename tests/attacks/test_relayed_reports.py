"""Reports that fit the frame that they came in, and none in which they could be passed on."""

import asyncio
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from firedoor.identity import PeerId, Role
from firedoor.units import UnixTime
from firedoor.wire.messages import Report
from mirror.origin.enrolments import Enrolments
from tests.attacks.hostile import (
    SOON_S,
    healths,
    id_of,
    row_of,
    soon,
    stolen,
    talking,
    times_synced,
    until_runs,
)
from tests.attacks.made_reports import oversize_report, small_report
from tests.live.lab import MIB, LabSite, has_recorded, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# More than one list of a message may hold.
LOST_AT_ONCE = 1500

# A quarter of the largest fleet. Their reports together are more than may wait for one peer.
KNOWN = 16_000


async def begin(site: LabSite) -> tuple[str, str]:
    """A site with one honest endpoint that runs 1.0; its name and the origin's id."""
    await site.begin()
    [honest] = await site.enrol(1, ["kiosk"])
    await site.start(honest)
    await site.publish("kiosk", "1.0", MIB // 4)
    await site.until_running("kiosk", "1.0", [honest])
    return honest, await id_of(site, "origin")


def test_one_oversize_report_does_not_cut_a_site_off(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        honest, origin = await begin(site)
        key = await stolen(site, "bad", Role.AGENT)
        async with talking(key, site.programs["mirror"].address, Role.MIRROR) as talk:
            await talk.say_frame(oversize_report(key.name, "branch"))
            await site.publish("kiosk", "2.0", MIB // 4)
            await until_runs(site, "kiosk", "2.0", honest)
        await site.halt("kiosk==2.0", at="origin")
        await site.until_halted([honest])
        assert times_synced(site, "mirror", origin) == 1

    tell(tmp_path, story)


def test_an_oversize_report_is_not_said_again_by_a_mirror_that_starts_anew(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        honest, origin = await begin(site)
        key = await stolen(site, "bad", Role.AGENT)
        async with talking(key, site.programs["mirror"].address, Role.MIRROR) as talk:
            await talk.say_frame(oversize_report(key.name, "branch"))
        # Its sender never comes back; what it said is on the mirror's disk, or is not.
        await site.kill("mirror", signal.SIGTERM)
        before = times_synced(site, "mirror", origin)
        await site.start("mirror")
        await site.publish("kiosk", "2.0", MIB // 4)
        await until_runs(site, "kiosk", "2.0", honest)
        assert times_synced(site, "mirror", origin) == before + 1

    tell(tmp_path, story)


def test_a_site_that_is_lost_at_once_is_told_upwards_in_parts(tmp_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(LOST_AT_ONCE)]

    async def story(site: LabSite) -> None:
        await site.begin_origin()
        await site.kill("origin", signal.SIGTERM)
        enrol_by_hand(site.folder / "origin" / "state" / "origin.sqlite", ids)
        await site.start("origin")
        await begin_mirror(site)
        origin = await id_of(site, "origin")
        lower = await stolen(site, "lower", Role.MIRROR)
        async with talking(lower, site.programs["mirror"].address, Role.MIRROR) as talk:
            await talk.say(*healths([small_report(each) for each in ids], 500))
            await soon(site, "the origin knows of all", lambda: how_many(site, connected=True))
        await soon(site, "the origin knows that all are gone", lambda: how_many(site))
        # Its own line would be another one by the time that an order has come.
        await site.halt("kiosk==9", at="origin")
        await site.until_halted(["mirror"])
        assert times_synced(site, "mirror", origin) == 1

    async def how_many(site: LabSite, *, connected: bool = False) -> bool:
        status = await site.status("origin")
        rows = [row_of(status, ids[0]), row_of(status, ids[-1])]
        return all(row["seen_at"] and row["is_connected"] is connected for row in rows)

    tell(tmp_path, story)


def test_a_mirror_that_knows_of_a_large_fleet_keeps_its_line_to_its_origin(tmp_path: Path) -> None:
    known = [with_long_detail(small_report(f"{number:032x}")) for number in range(KNOWN)]

    async def story(site: LabSite) -> None:
        await site.begin_origin()
        await begin_mirror(site)
        origin = await id_of(site, "origin")
        lower = await stolen(site, "lower", Role.MIRROR)
        async with talking(lower, site.programs["mirror"].address, Role.MIRROR) as talk:
            # As much as it reads in time.
            with suppress(TimeoutError):
                async with asyncio.timeout(SOON_S):
                    await talk.say(*healths(known, 500))
                    await talk.heard_out()
            await site.kill("origin")
            before = times_synced(site, "mirror", origin)
            await site.start("origin")
            await site.halt("kiosk==9", at="origin")
            await soon(site, "the mirror has recorded the halt", lambda: has_order(site))
        assert times_synced(site, "mirror", origin) == before + 1

    tell(tmp_path, story)


async def has_order(site: LabSite) -> bool:
    status = await site.status("mirror")
    return status is not None and has_recorded(status)


def with_long_detail(report: Report) -> Report:
    """The same with as long a sentence as it may have."""
    return replace(report, products=(replace(report.products[0], detail="x" * 400),))


async def begin_mirror(site: LabSite) -> None:
    upstream = [site.programs["origin"].address]
    await site.add(site.program("mirror", Role.MIRROR, {"upstream": upstream}))
    await site.start("mirror")


def enrol_by_hand(path: Path, ids: list[str]) -> None:
    """Give each a token and redeem it, at the origin's own file."""
    enrolments = Enrolments(path)
    for each in ids:
        secret = enrolments.issue(Role.AGENT, "branch", span_s=3600, now=UnixTime(1))
        enrolments.redeem(secret, PeerId(each), UnixTime(1))
    enrolments.close()

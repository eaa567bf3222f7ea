"""A mirror's certificate, used to say things of endpoints that are not below that mirror."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.limits import ENDPOINTS_MAX, ROSTER_MAX
from firedoor.wire.messages import Health, ProductHealth, Report
from tests.attacks.hostile import (
    SOON_S,
    healths,
    id_of,
    row_of,
    soon,
    stolen,
    talking,
    versions_of,
)
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


def claim(peer: str, site: str = "annex") -> Report:
    """That this endpoint runs what it does not."""
    product = ProductHealth("kiosk", "3.0", "ab" * 32, "idle", "perfect")
    return Report(peer, "agent", site, (product,), ())


async def begin(site: LabSite) -> tuple[str, str]:
    """A site whose one endpoint runs 1.0, as its origin knows; its name and id."""
    await site.begin()
    [honest] = await site.enrol(1, ["kiosk"])
    await site.start(honest)
    await site.publish("kiosk", "1.0", MIB // 4)
    await site.until_running("kiosk", "1.0", [honest])
    peer = await id_of(site, honest)
    await soon(site, "the origin knows what it runs", lambda: says(site, "origin", peer))
    return honest, peer


async def says(site: LabSite, name: str, peer: str) -> bool:
    """Whether a mirror's status says that this endpoint runs 1.0."""
    row = row_of(await site.status(name), peer)
    return versions_of(row) == ["1.0"] and row["seen_at"] > 0


def test_invented_endpoints_leave_the_real_ones_their_room(tmp_path: Path) -> None:
    invented = [f"{number:032x}" for number in range(ENDPOINTS_MAX)]

    async def story(site: LabSite) -> None:
        _, peer = await begin(site)
        [late] = await site.enrol(1, ["kiosk"])
        key = await stolen(site, "annex", Role.MIRROR, place="annex")
        async with talking(key, site.programs["origin"].address, Role.MIRROR) as talk:
            # Whoever reads so much of it in time; to read no further is an answer, too.
            with suppress(TimeoutError):
                async with asyncio.timeout(SOON_S):
                    await talk.say(*healths([claim(each) for each in invented], ROSTER_MAX))
                    await talk.heard_out()
        await site.start(late)
        newcomer = await id_of(site, late)
        await soon(site, "the origin hears of it", lambda: says(site, "origin", newcomer))
        assert await ids_at(site, "origin") == {peer, newcomer}
        await site.kill("origin")
        await site.start("origin")
        assert await ids_at(site, "origin") == {peer, newcomer}

    tell(tmp_path, story)


def test_an_invented_endpoint_is_in_no_status(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        for name, place in (("annex", "annex"), ("lower", "branch")):
            key = await stolen(site, name, Role.MIRROR, place=place)
            for at in ("origin", "mirror"):
                async with talking(key, site.programs[at].address, Role.MIRROR) as talk:
                    await talk.say(Health((claim("0f" * 16, place),)))
                    await talk.heard_out()
        assert await ids_at(site, "origin") == set()

    tell(tmp_path, story)


async def ids_at(site: LabSite, name: str) -> set[str]:
    """Every endpoint in a mirror's status."""
    status = await site.status(name)
    assert status is not None
    return {str(row["id"]) for row in status["endpoints"]}


def test_a_mirror_of_another_site_changes_no_report(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        _, peer = await begin(site)
        key = await stolen(site, "annex", Role.MIRROR, place="annex")
        async with talking(key, site.programs["origin"].address, Role.MIRROR) as talk:
            await talk.say(Health((claim(peer),)))
            await talk.heard_out()
            row = row_of(await site.status("origin"), peer)
            assert (versions_of(row), row["site"]) == (["1.0"], "branch")
        # Nor is it gone because that mirror has gone.
        row = row_of(await site.status("origin"), peer)
        assert (versions_of(row), row["is_connected"]) == (["1.0"], True)

    tell(tmp_path, story)


def test_the_own_report_of_a_connected_endpoint_is_never_replaced(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        _, peer = await begin(site)
        key = await stolen(site, "lower", Role.MIRROR)
        async with talking(key, site.programs["mirror"].address, Role.MIRROR) as talk:
            await talk.say(Health((claim(peer, "branch"),)))
            await talk.heard_out()
            for name in ("mirror", "origin"):
                assert versions_of(row_of(await site.status(name), peer)) == ["1.0"]

    tell(tmp_path, story)


def test_what_a_banned_mirror_said_of_others_goes_with_it(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        key = await stolen(site, "lower", Role.MIRROR)
        # One of its own site, which has never been heard of.
        silent = (await stolen(site, "silent", Role.AGENT)).name
        origin = site.programs["origin"].address
        async with talking(key, origin, Role.MIRROR) as talk:
            await talk.say(Health((claim(silent, "branch"),)))
            await talk.heard_out()
        signed = [f"{site.fleet}/keys/resume-{number}.key" for number in (1, 2)]
        words = [word for path in signed for word in ("--key", path)]
        await site.firedoor("ban", key.name, "--reason", "stolen", *words, "--to", origin)

        async def is_silent() -> bool:
            row = row_of(await site.status("origin"), silent)
            return (versions_of(row), row["seen_at"]) == ([], 0)

        await soon(site, "nothing is known of the silent one", is_silent)

    tell(tmp_path, story)

"""Peers that dial in, may claim to have news that nobody else has, and never answer a request."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.wire.messages import Announce
from tests.attacks.hostile import Talk, silence, soon, stolen, talking, until_runs
from tests.live.lab import MIB, LabSite, release_of, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# The highest that the protocol lets one claim.
CLAIM = Announce(2**40, 2**40)


async def beside(
    key: KeyFile,
    victim: tuple[str, Role],
    story: Callable[[Talk], Awaitable[None]],
    *,
    is_trickling: bool = False,
) -> None:
    """What goes on while whoever holds `key` has dialled `victim`, and answers nothing."""
    address, role = victim
    async with (
        silence(key, is_trickling=is_trickling) as port,
        talking(key, address, role, port=port, is_beating=True) as talk,
    ):
        await story(talk)


async def published(site: LabSite, name: str) -> None:
    """Release 2.0 comes out, and then runs on this endpoint."""
    await site.publish("kiosk", "2.0", MIB // 4)
    await until_runs(site, "kiosk", "2.0", name)


@pytest.mark.parametrize(
    ("place", "is_trickling"), [("annex", False), ("branch", False), ("branch", True)]
)
def test_a_mirror_that_claims_the_newest_and_never_answers_holds_no_update_up(
    tmp_path: Path, place: str, *, is_trickling: bool
) -> None:
    async def story(site: LabSite) -> None:
        honest = await begin(site)

        async def attack(talk: Talk) -> None:
            await talk.say(CLAIM)
            await published(site, honest)
            # Once more, for it may have been lucky: what is claimed is claimed anew each time.
            await talk.say(CLAIM)
            await site.publish("kiosk", "3.0", MIB // 4)
            await until_runs(site, "kiosk", "3.0", honest)

        key = await stolen(site, "claimer", Role.MIRROR, place=place)
        victim = (site.programs[honest].address, Role.AGENT)
        await beside(key, victim, attack, is_trickling=is_trickling)

    tell(tmp_path, story)


def test_a_mirror_that_claims_nothing_and_never_answers_holds_no_update_up(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        honest = await begin(site)
        key = await stolen(site, "mute", Role.MIRROR, place="annex")
        # Its endpoint looks for a next root, which its own mirror has not, and asks whoever has.
        victim = (site.programs[honest].address, Role.AGENT)
        await beside(key, victim, lambda _: published(site, honest))

    tell(tmp_path, story)


def test_a_mirror_that_has_dialled_another_holds_up_no_update_of_its_site(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await begin(site)

        async def attack(talk: Talk) -> None:
            await talk.say(CLAIM)
            await site.publish("kiosk", "2.0", MIB // 4)
            await soon(site, "the mirror has heard of 2.0", has_heard)

        async def has_heard() -> bool:
            status = await site.status("mirror")
            return status is not None and release_of(status, "kiosk")["version"] == "2.0"

        key = await stolen(site, "mute", Role.MIRROR, place="annex")
        await beside(key, (site.programs["mirror"].address, Role.MIRROR), attack)

    tell(tmp_path, story)


def test_an_endpoint_that_claims_the_newest_and_never_answers_holds_no_neighbour_up(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        # One reaches the origin; the other has neighbours only.
        [near] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["origin"].address])
        [far] = await site.enrol(1, ["kiosk"], peers=[site.programs[near].address])
        await site.start_all([near, far])
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [near, far])

        async def attack(talk: Talk) -> None:
            await talk.say(CLAIM)
            await published(site, far)

        key = await stolen(site, "claimer", Role.AGENT)
        await beside(key, (site.programs[far].address, Role.AGENT), attack)

    tell(tmp_path, story)


async def begin(site: LabSite) -> str:
    """A site with one endpoint, whose mirror is in its settings and which runs 1.0; its name."""
    await site.begin()
    [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
    await site.start(honest)
    await site.publish("kiosk", "1.0", MIB // 4)
    await site.until_running("kiosk", "1.0", [honest])
    return honest

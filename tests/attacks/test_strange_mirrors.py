"""A mirror of another site that dials endpoints whose own mirror does not answer."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from firedoor.identity import Role
from tests.attacks.hostile import id_of, stolen, talking
from tests.attacks.test_spoofed_neighbours import until_connected
from tests.live.lab import LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Without the stranger it takes some seconds.
SPAN_S = 25.0


@pytest.mark.parametrize("is_attacked", [False, True], ids=["quiet", "attacked"])
def test_endpoints_find_each_other_while_a_mirror_of_another_site_talks_to_them(
    tmp_path: Path, *, is_attacked: bool
) -> None:
    """A mirror that gives nothing to an endpoint is none that answers."""

    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk"])
        key = await stolen(site, "thief", Role.MIRROR, place="elsewhere")
        # One after the other, so that no roster has named them to each other.
        for name in names:
            await site.start(name)
            await until_connected(site, name)
            await site.kill(name, signal.SIGTERM)
            await asyncio.sleep(1.0)
        await site.kill("mirror", signal.SIGTERM)
        async with AsyncExitStack() as stack:
            await site.start_all(names)
            for name in names if is_attacked else ():
                address = site.programs[name].address
                await stack.enter_async_context(talking(key, address, Role.AGENT, is_beating=True))
            other = await id_of(site, names[1])

            async def has_found() -> bool:
                status = await site.status(names[0])
                return status is not None and other in {each["id"] for each in status["peers"]}

            await site.until("one endpoint has found the other", has_found, SPAN_S)

    tell(tmp_path, story)

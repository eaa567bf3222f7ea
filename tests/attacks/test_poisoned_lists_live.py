"""A mirror of the site that serves all metadata as it is but one publisher's list, or all slowly.

It passes the origin's word on before the site's own mirror has synced, so endpoints ask it first.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from firedoor.errors import FiredoorError
from firedoor.identity import Role
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.keys.tls import credentials_of, server_context
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.wire.messages import Announce
from tests.attacks.hostile import HERE, Talk, stolen, talking, until_runs
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


@asynccontextmanager
async def liar(key: KeyFile, origin: str, pause_s: float) -> AsyncIterator[int]:
    """Serves the origin's metadata, and junk for publishers' lists, or all of it late; its port."""
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    host, port = split_address(origin)

    async def metadata(request: web.Request) -> web.Response:
        name = request.match_info["name"].replace("/", "%2F")
        await asyncio.sleep(pause_s)
        if "releases" in name and not pause_s:
            return web.Response(body=b"{}")
        try:
            path = f"/v1/metadata/{name}"
            data = await client.get(host, port, path, role=Role.MIRROR, limit=METADATA_BYTES_MAX)
        except FiredoorError:
            return web.json_response({"code": "unknown", "error": "none"}, status=404)
        return web.Response(body=data)

    app = web.Application()
    app.add_routes([web.get("/v1/metadata/{name:.+}", metadata)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, HERE, 0, ssl_context=server_context(credentials_of(key))).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
        await client.close()


async def pass_on(above: Talk, below: Talk) -> None:
    """Say what the origin announces, at once."""
    said = 0
    while True:
        notices = [each for each in above._heard if isinstance(each, Announce)]
        for notice in notices[said:]:
            await below.say(notice)
        said = len(notices)
        await asyncio.sleep(0.005)


# Within what a first word may take (ANSWER_S); each file of a refresh takes as long.
@pytest.mark.parametrize("pause_s", [0.0, 4.5])
def test_a_mirror_that_serves_junk_for_one_list_or_is_slow_holds_no_update_up(
    tmp_path: Path, pause_s: float
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        key = await stolen(site, "liar", Role.MIRROR)
        origin, victim = site.programs["origin"].address, site.programs[honest].address
        async with (
            liar(key, origin, pause_s) as port,
            talking(key, origin, Role.MIRROR) as above,
            talking(key, victim, Role.AGENT, port=port, is_beating=True) as below,
        ):
            work = asyncio.ensure_future(pass_on(above, below))
            try:
                await site.publish("kiosk", "2.0", MIB // 4)
                await until_runs(site, "kiosk", "2.0", honest)
            finally:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    tell(tmp_path, story)

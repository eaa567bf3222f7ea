"""What a mirror's mDNS record of its orders makes an endpoint do."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.daemon import AgentDaemon
from firedoor.dice import Dice
from firedoor.identity import FleetId, PeerId, Role
from firedoor.runtime.settings import AgentSettings
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import Bench

MIRROR = PeerId("1" * 32)
OTHERS = "0f" * 8


def follow(
    bench: Bench,
    folder: Path,
    story: Callable[[AgentDaemon, asyncio.Queue[None]], Coroutine[Any, Any, None]],
) -> None:
    """A story with an endpoint whose dial of a mirror has just failed, and each dial of it."""

    async def live(one: Endpoint) -> None:
        dials: asyncio.Queue[None] = asyncio.Queue()

        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dials.put_nowait(None)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = AgentSettings("root.json", str(folder / "state"), "branch")
        daemon = AgentDaemon(one.host, settings, Dice(1), bytes(32), FleetId("f" * 32))
        running = asyncio.ensure_future(daemon.neighbours.run())
        daemon.neighbours.found(MIRROR, ("127.0.0.1", port), Role.MIRROR)
        await dials.get()
        hint = daemon.neighbours._known[MIRROR]
        await one.until(lambda: hint.failures == 1)
        # As after an hour of failures: it would be dialled in a quarter of a minute at best.
        hint.not_before = one.host.clock.now() + 15.0  # type: ignore[assignment]  # an Instant
        try:
            await story(daemon, dials)
        finally:
            running.cancel()
            await asyncio.wait({running})
            await one.until(lambda: not daemon.neighbours._dialling)
            server.close()
            await server.wait_closed()
            await one.host.client.close()

    Endpoint(bench, folder / "endpoint").run(live)


def test_a_mirror_that_holds_other_orders_is_dialled_at_once(bench: Bench, tmp_path: Path) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        daemon.heard_of_orders(MIRROR, OTHERS)
        async with asyncio.timeout(10):
            await dials.get()

    follow(bench, tmp_path, story)


def test_a_mirror_that_holds_the_same_orders_is_not(bench: Bench, tmp_path: Path) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        hint = daemon.neighbours._known[MIRROR]
        same = daemon.host.node.orders.digest().hex()[: len(OTHERS)]
        daemon.heard_of_orders(MIRROR, same)
        assert hint.not_before > daemon.host.clock.now()
        assert dials.empty()

    follow(bench, tmp_path, story)


def test_what_a_mirror_says_of_its_orders_is_held_against_those_of_today(
    bench: Bench, tmp_path: Path
) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        same = daemon.host.node.orders.digest().hex()[: len(OTHERS)]
        endpoint = daemon.host.program
        assert isinstance(endpoint, Endpoint)
        await endpoint.halt(PRODUCT, 4)
        daemon.heard_of_orders(MIRROR, same)
        async with asyncio.timeout(10):
            await dials.get()

    follow(bench, tmp_path, story)

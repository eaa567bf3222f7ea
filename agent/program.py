"""What `firedoor-agent` does but for the guard: run the endpoint, show its status, or fetch."""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.checks.isolation import Checks, uid_of
from agent.daemon import AgentDaemon
from agent.fetch import fetch_release
from agent.handlers.registry import make_handler
from agent.install.installer import Installer
from agent.install.journal import Journal
from agent.install.switching import SWITCH_PATH, switch_route
from firedoor import __version__
from firedoor.errors import FiredoorError, Malformed, Unavailable
from firedoor.identity import PeerId, Role
from firedoor.limits import STATUS_BYTES_MAX
from firedoor.runtime import logs
from firedoor.runtime.clocks import Clock
from firedoor.runtime.network.discovery import Discovery
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.program.presence import Hooks, present
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.program.startup import (
    ProgramIdentity,
    StateLock,
    guarded,
    make_host,
    read_identity,
    run_loop,
)
from firedoor.runtime.settings import AgentSettings, read_agent, split_address
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.runtime.terminal import plain
from firedoor.wire.json_text import json_map


def main() -> int:
    """Run the program; the exit code."""
    parser = argparse.ArgumentParser(
        prog="firedoor-agent", description="Keep this machine updated."
    )
    parser.add_argument("--version", action="version", version=f"firedoor-agent {__version__}")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--check-config", action="store_true", help="read the settings and stop")
    commands = parser.add_subparsers(dest="command")
    status = commands.add_parser("status", help="what the running agent has and does")
    status.add_argument("--json", action="store_true")
    switch = commands.add_parser("switch", help="switch what is armed, now: at a shutdown, say")
    switch.add_argument("products", metavar="PRODUCT", nargs="*", help="these; all that are armed")
    commands.add_parser("guard", help="before a product starts: step back from what must not run")
    fetch = commands.add_parser("fetch", help="fetch and verify one release; install nothing")
    fetch.add_argument("release", metavar="PRODUCT[==VERSION]")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    fetch.add_argument("--linger", type=float, default=0.0, metavar="S", help="then serve others")
    arguments = parser.parse_args()
    return guarded("firedoor-agent", lambda: _start(arguments))


def _start(arguments: argparse.Namespace) -> None:
    settings = read_agent(arguments.config)
    if arguments.check_config:
        print(f"{arguments.config}: good")  # noqa: T201  # the answer to --check-config
        for line in _warnings(settings):
            print(f"{arguments.config}: {line}")  # noqa: T201  # the answer to --check-config
        return
    if arguments.command == "status":
        run_loop(_status(settings, is_json=arguments.json))
        return
    if arguments.command == "switch":
        run_loop(_switch(settings, arguments.products))
        return
    logs.setup()
    state = Path(settings.state).expanduser()
    lock = StateLock(state)
    try:
        if arguments.command == "fetch":
            name, _, version = arguments.release.partition("==")
            wanted = (name, version, arguments.out, arguments.linger)
            work = _run(settings, state, lambda daemon: fetch_release(daemon.host, *wanted))
            if not run_loop(work) and not arguments.out.exists():
                raise Unavailable(arguments.release, why="stopped before it was whole")
        else:
            run_loop(_run(settings, state, None))
    finally:
        lock.close()


def _warnings(settings: AgentSettings) -> list[str]:
    """What will hold releases back once the agent runs with these settings."""
    checks = Checks(settings, uid=uid_of(Path(settings.state).expanduser()))
    why = checks.hindrance(["any"])
    if not why:
        return []
    own = [name for name, product in settings.products.items() if product.check]
    more = f"; all of {', '.join(own)}, for they have a `check` here" if own else ""
    return [f"{why}: releases that bring checks are held back{more}"]


def _person(settings: AgentSettings, clock: Clock) -> ProgramIdentity:
    path = Path(settings.state).expanduser() / "identity.key"
    return read_identity(path, Role.AGENT, clock, _no_passphrase)


async def _run(
    settings: AgentSettings,
    state: Path,
    one_shot: Callable[[AgentDaemon], Awaitable[None]] | None,
) -> None:
    clock = Clock()
    person = _person(settings, clock)
    host = make_host(person, settings, clock, PieceStore(state / "pieces"))
    renewal = Renewal(state / "identity.key", host.client, clock)
    checks = Checks(settings)

    def make_installers(journal: Journal, on_change: Callable[[], None]) -> list[Installer]:
        followed = settings.products.items() if one_shot is None else ()
        return [
            Installer(
                host,
                name,
                product,
                journal=journal,
                handler=make_handler(product.handler, Path(product.root).expanduser()),
                checks=checks,
                on_change=on_change,
            )
            for name, product in followed
        ]

    daemon = AgentDaemon(host, settings, person, renewal, make_installers)
    routes = [switch_route(person.peer.id, daemon.switch)]
    hooks = Hooks(daemon.more_status, daemon.found, daemon.heard_of_orders, routes, renewal)
    try:
        async with present(host, person, settings, hooks) as discovery:
            logs.log("agent-started", listen=settings.listen, peer=person.peer.id)
            if one_shot is None:
                await daemon.run(discovery)
            else:
                await _until_done(daemon, discovery, one_shot)
    finally:
        await host.client.close()
        host.log.close()


async def _until_done(
    daemon: AgentDaemon,
    discovery: Discovery,
    one_shot: Callable[[AgentDaemon], Awaitable[None]],
) -> None:
    running = asyncio.ensure_future(daemon.run(discovery))
    work = asyncio.ensure_future(one_shot(daemon))
    try:
        await asyncio.wait({running, work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Whichever has not ended: without the daemon the errand would wait for ever.
        running.cancel()
        work.cancel()
        await asyncio.wait({running, work})
    if not work.cancelled():
        work.result()
    elif not running.cancelled():
        running.result()


async def _ask_itself(
    settings: AgentSettings, path: str, body: bytes | None = None
) -> dict[str, Any]:
    """What the agent that runs on this machine answers; `body`: posted, if any."""
    clock = Clock()
    person = _person(settings, clock)
    client = PeerClient(person.credentials, clock, Budget(0))
    host, port = split_address(settings.listen)
    address = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  # compared, not bound
    me, limit = PeerId(person.peer.id), STATUS_BYTES_MAX
    try:
        if body is None:
            answer = await client.get(address, port, path, expect=me, limit=limit)
        else:
            answer = await client.post(address, port, path, body, expect=me, limit=limit)
    except FiredoorError as error:
        raise Unavailable("the agent on this machine", why=str(error)) from error
    finally:
        await client.close()
    return json_map(answer, "the agent on this machine")


async def _switch(settings: AgentSettings, products: list[str]) -> None:
    unknown = sorted(set(products) - set(settings.products))
    if unknown:
        raise Malformed("product", wanted=", ".join(settings.products), got=unknown[0])
    said = await _ask_itself(settings, SWITCH_PATH, json.dumps(products).encode())
    for product, end in said["switched"].items():
        print(plain(f"{product}: {end}"))  # noqa: T201  # the answer
    if not said["switched"] and not said["failed"]:
        print("nothing is armed")  # noqa: T201  # the answer
    if said["failed"]:
        whys = [f"{product}: {why}" for product, why in said["failed"].items()]
        raise Unavailable("the switch", why="; ".join(whys))


async def _status(settings: AgentSettings, *, is_json: bool) -> None:
    table = await _ask_itself(settings, "/v1/status")
    if is_json:
        print(json.dumps(table, indent=2))  # noqa: T201  # the answer
        return
    if not table["is_reconciled"]:
        print("it has NOT synced orders since its start, and moves nothing before it has")  # noqa: T201
    for product in table["products"]:
        line = f"{product['product']}: {product['version'] or 'nothing'} ({product['phase']})"
        detail = f": {product['detail']}" if product["detail"] else ""
        print(plain(line + detail))  # noqa: T201
    for order in table["orders"]:
        if order.get("is_in_force") and order["kind"] in {"halt", "controller-halt"}:
            line = f"halted: {order['scope']} at level {order['level']}: {order['reason']}"
            print(plain(line))  # noqa: T201  # the answer


def _no_passphrase() -> str:
    raise Unavailable("identity.key", why="it is sealed; an agent's key must open by itself")

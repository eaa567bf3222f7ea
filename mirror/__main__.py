"""`firedoor-mirror`: put a mirror together from its settings and run it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from firedoor.dice import Dice
from firedoor.errors import Unavailable
from firedoor.identity import Role
from firedoor.runtime import logs
from firedoor.runtime.clocks import Clock
from firedoor.runtime.discovery import Discovery
from firedoor.runtime.host import Host
from firedoor.runtime.pacing import Budget
from firedoor.runtime.peer_server import build_app, serve
from firedoor.runtime.program import (
    Person,
    StateLock,
    main_of,
    make_host,
    read_identity,
    read_root,
    run_loop,
)
from firedoor.runtime.service import Service
from firedoor.runtime.settings import MirrorSettings, read_mirror, split_address
from firedoor.runtime.tls import enrolment_server_context, server_context
from mirror.api.origin_routes import Forwarder, enrolment_app, forward_routes, routes
from mirror.daemon import MirrorDaemon, state_folder
from mirror.origin import Origin


def main() -> int:
    """Run the program; the exit code."""
    return main_of("firedoor-mirror", "Relay signed updates to a site, or be the origin.", _start)


def _start(config: Path, is_check: bool) -> None:  # noqa: FBT001  # main_of's contract
    settings = read_mirror(config)
    if is_check:
        print(f"{config}: good")  # noqa: T201  # the answer to --check-config
        return
    logs.setup()
    state = state_folder(settings.state)
    lock = StateLock(state)
    try:
        run_loop(_run(settings, state))
    finally:
        lock.close()


async def _run(settings: MirrorSettings, state: Path) -> None:
    clock = Clock()
    home = Path(settings.origin_folder).expanduser() if settings.origin_folder else state
    person = read_identity(home / "identity.key", Role.MIRROR, clock, _passphrase(settings))
    host = make_host(
        person,
        state,
        root_path=settings.fleet_root,
        port=split_address(settings.listen)[1],
        limits=settings.limits,
        clock=clock,
        is_origin=bool(settings.origin_folder),
    )
    origin = None
    if settings.origin_folder:
        origin = Origin(home, state, store=host.store, passphrase=_passphrase(settings))
    dice = Dice(clock.seed())
    daemon = MirrorDaemon(host, upstream=settings.upstream, origin=origin, dice=dice)
    await _serve(settings, person, daemon, host=host, origin=origin)


async def _serve(
    settings: MirrorSettings,
    person: Person,
    daemon: MirrorDaemon,
    *,
    host: Host,
    origin: Origin | None,
) -> None:
    forwarder = Forwarder(host.client, settings.upstream, person.credentials.ca)
    extra = routes(origin, host.store, daemon.published) if origin else forward_routes(forwarder)
    app = build_app(
        Service(host, daemon.more_status),
        transfers=host.transfers,
        budget=Budget(settings.limits.send_bytes_per_s),
        clock=host.clock,
        extra_routes=extra,
    )
    server = await serve(app, settings.listen, server_context(person.credentials))
    servers = [server]
    if settings.enrol_listen:
        enrolment = enrolment_app(origin or forwarder)
        context = enrolment_server_context(person.credentials)
        servers.append(await serve(enrolment, settings.enrol_listen, context))
    _, fleet = read_root(Path(settings.fleet_root))
    discovery = Discovery(
        fleet,
        person.peer.id,
        role=Role.MIRROR,
        site=person.peer.site,
        port=server.port,
        interfaces=settings.mdns,
        on_found=lambda peer, role, address: daemon.neighbours.found(peer, address, role),
        on_lost=daemon.neighbours.lost,
    )
    logs.log("mirror-started", port=server.port, peer=person.peer.id)
    try:
        async with discovery:
            await daemon.run()
    finally:
        await asyncio.gather(*(each.close() for each in servers), host.client.close())
        host.log.close()


def _passphrase(settings: MirrorSettings) -> Callable[[], str]:
    def read() -> str:
        if not settings.passphrase_file:
            raise Unavailable("the origin's keys", why="sealed; set passphrase_file in mirror.toml")
        path = Path(settings.passphrase_file).expanduser()
        try:
            return path.read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            raise Unavailable(str(path), why=error.strerror or "cannot be read") from error

    return read


if __name__ == "__main__":
    sys.exit(main())

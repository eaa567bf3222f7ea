"""`firedoor-mirror`: put a mirror together from its settings and run it."""

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp.web import RouteDef

from firedoor.dice import Dice
from firedoor.errors import Unavailable
from firedoor.identity import FleetId, Role
from firedoor.pieces.manifest_reading import LARGE, NORMAL
from firedoor.runtime import logs
from firedoor.runtime.clocks import Clock
from firedoor.runtime.host.host import Host
from firedoor.runtime.keys.passphrases import read_passphrase
from firedoor.runtime.keys.tls import enrolment_server_context
from firedoor.runtime.network.listening import serve
from firedoor.runtime.program.presence import Hooks, present
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.program.startup import (
    ProgramIdentity,
    StateLock,
    main_of,
    make_host,
    read_identity,
    run_loop,
)
from firedoor.runtime.settings import MirrorSettings, read_mirror
from firedoor.runtime.storage.piece_store import PieceStore
from mirror.airgap.carrying import Carrying, OfflineEnroller
from mirror.api.enrolment_routes import Enroller, Forwarder, enrolment_app, forward_routes
from mirror.api.origin_routes import OriginApi
from mirror.api.stick_routes import StickApi
from mirror.beacon_key import BeaconSigner, own_signer
from mirror.daemon import MirrorDaemon, state_folder
from mirror.origin.origin import Origin, renew_origin
from mirror.telemetry.claims import Judge
from mirror.telemetry.receipts import ReceiptCollector
from mirror.telemetry.reports import Endpoints


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
    if settings.origin_folder:
        renew_origin(home, _passphrase(settings), clock.unix())
    person = read_identity(home / "identity.key", Role.MIRROR, clock, _passphrase(settings))
    fleet = FleetId(person.key.fleet)
    store = PieceStore(state / "pieces")
    origin = renewal = own = None
    if settings.origin_folder:
        bound = LARGE if settings.limits.large_manifests else NORMAL
        secret = _passphrase(settings)
        origin = Origin(home, state, store=store, passphrase=secret, bound=bound)
    else:
        own = own_signer(state, fleet)

    def signer() -> BeaconSigner | None:
        # The origin's is replaced when its key is rotated.
        return origin.signer if origin is not None else own

    beacon_key = own.keyid if own is not None else ""
    host = make_host(person, settings, clock, store, signer=signer, beacon_key=beacon_key)
    if origin is None:
        # The origin renews its own at each start: it has nobody to ask.
        renewal = Renewal(state / "identity.key", host.client, clock)
    roll = origin.enrolments if origin is not None else None
    endpoints = Endpoints(state / "mirror.sqlite", Judge(fleet, person.credentials.ca, roll))
    collector = ReceiptCollector(state / "receipts.sqlite", fleet, roll)
    daemon = MirrorDaemon(
        host,
        upstream=settings.upstream,
        origin=origin,
        signer=signer,
        renewal=renewal,
        endpoints=endpoints,
        collector=collector,
        dice=Dice(clock.seed()),
        kept=state / "neighbours.json",
    )
    try:
        await _serve(settings, person, daemon, host=host, origin=origin, renewal=renewal)
    finally:
        endpoints.close()
        collector.close()


async def _serve(
    settings: MirrorSettings,
    person: ProgramIdentity,
    daemon: MirrorDaemon,
    *,
    host: Host,
    origin: Origin | None,
    renewal: Renewal | None,
) -> None:
    if origin is not None:
        enroller, extra = _origin_routes(origin, daemon, host)
    else:
        assert renewal is not None
        enroller, extra = _site_routes(settings, person, daemon, host=host, renewal=renewal)
    hooks = Hooks(daemon.more_status, daemon.found, routes=extra, renewal=renewal)
    async with AsyncExitStack() as stack:
        stack.callback(host.log.close)
        stack.push_async_callback(host.client.close)
        if settings.enrol_listen:
            context = enrolment_server_context(person.credentials)
            if renewal is not None:
                renewal.contexts.append(context)
            enrolment = enrolment_app(enroller)
            enrolling = await serve(enrolment, settings.enrol_listen, context)
            stack.push_async_callback(enrolling.close)
        discovery = await stack.enter_async_context(present(host, person, settings, hooks))
        logs.log("mirror-started", listen=settings.listen, peer=person.peer.id)
        await daemon.run(discovery)


def _origin_routes(
    origin: Origin, daemon: MirrorDaemon, host: Host
) -> tuple[Enroller, list[RouteDef]]:
    """The origin answers enrolments itself. What it serves beside what all peers do."""
    api = OriginApi(origin, daemon)
    return origin, [*api.routes(), *forward_routes(origin, host.node.refuses)]


def _site_routes(
    settings: MirrorSettings,
    person: ProgramIdentity,
    daemon: MirrorDaemon,
    *,
    host: Host,
    renewal: Renewal,
) -> tuple[Enroller, list[RouteDef]]:
    """Who answers enrolments at a site, and what its mirror serves beside what all peers do."""
    ca, is_banned = person.credentials.ca, host.node.refuses
    if settings.upstream:
        forwarder = Forwarder(host.client, settings.upstream, ca)
        return forwarder, forward_routes(forwarder, is_banned)
    offline_enroller = OfflineEnroller(ca)
    stick = StickApi(Carrying(host, offline_enroller, renewal, daemon.collector), daemon)
    return offline_enroller, [*stick.routes(), *forward_routes(offline_enroller, is_banned)]


def _passphrase(settings: MirrorSettings) -> Callable[[], str]:
    def read() -> str:
        if not settings.passphrase_file:
            raise Unavailable("the origin's keys", why="sealed; set passphrase_file in mirror.toml")
        return read_passphrase(Path(settings.passphrase_file).expanduser())

    return read


if __name__ == "__main__":
    sys.exit(main())

"""How a program is there for its peers: the one mTLS port, and its advertisement on the LAN."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from firedoor.identity import FleetId, PeerId
from firedoor.runtime.host.host import Host
from firedoor.runtime.host.service import Service
from firedoor.runtime.keys.tls import server_context
from firedoor.runtime.network.discovery import Discovery, Found
from firedoor.runtime.network.listening import serve
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_server import build_app
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.program.startup import ProgramIdentity
from firedoor.runtime.settings import AgentSettings, MirrorSettings


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a program adds: to its status, to its routes, and when a peer is found.

    `on_orders`: what a mirror's mDNS record says of its order set. `renewal` keeps the certificate
    that is shown on the port fresh.
    """

    more_status: Callable[[], dict[str, Any]]
    on_found: Found
    on_orders: Callable[[PeerId, str], None] = lambda _peer, _orders: None
    routes: Sequence[web.RouteDef] = ()
    renewal: Renewal | None = None


@asynccontextmanager
async def present(
    host: Host, person: ProgramIdentity, settings: AgentSettings | MirrorSettings, hooks: Hooks
) -> AsyncIterator[Discovery]:
    """Listen and advertise while entered.

    Raises:
        Unavailable: the address is taken or not this machine's, or an mDNS interface is not.
    """
    app = build_app(
        Service(host, hooks.more_status),
        transfers=host.transfers,
        budget=Budget(settings.limits.send_bytes_per_s),
        clock=host.clock,
        extra_routes=hooks.routes,
    )
    context = server_context(person.credentials)
    if hooks.renewal is not None:
        hooks.renewal.contexts.append(context)
    server = await serve(app, settings.listen, context)
    discovery = Discovery(
        FleetId(person.key.fleet),
        person.peer.id,
        role=person.peer.role,
        site=person.peer.site,
        port=server.port,
        interfaces=settings.mdns,
        on_found=hooks.on_found,
        on_orders=hooks.on_orders,
    )
    try:
        async with discovery, host.multicast:
            yield discovery
    finally:
        await server.close()

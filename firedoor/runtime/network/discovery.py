"""Finding peers by DNS-SD on named interfaces; a hint, never trust.

Mirrors are registered only under the `_mirror` subtype, which shows them to browsers of both
types. The interfaces come from a settings file; without one nothing is sent anywhere.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from zeroconf import InterfaceChoice, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from firedoor.dice import Dice
from firedoor.errors import Unavailable
from firedoor.identity import PEER_ID, FleetId, PeerId, Role
from firedoor.runtime.network.pacing import Rate
from firedoor.units import Instant, Span

TYPE = "_firedoor._tcp.local."
MIRROR_TYPE = "_mirror._sub._firedoor._tcp.local."
TYPES = (TYPE, MIRROR_TYPE)
"""All that a peer may be registered under: a mirror is announced under both, and answers to one."""

_RESOLVE_MS = 3000

# Eight bytes of the order set's digest, in hex.
ORDERS_DIGITS = 16

# Services at once whose records did not come in one datagram and are asked for. More wait, as many
# as a site has; of those that nobody has asked for any may be given up.
_RESOLVED_MAX = 16
_UNRESOLVED_MAX = 1024
_RESOLVED_PAUSE_S = 0.05

# Services that are heard of in a second: a site of a thousand comes up within some.
HEARD_PER_S = 200

Found = Callable[[PeerId, Role, tuple[str, int]], None]


class Discovery:
    """Advertise one program and browse for its peers, while entered."""

    def __init__(
        self,
        fleet: FleetId,
        me: PeerId,
        *,
        role: Role,
        site: str,
        port: int,
        interfaces: Sequence[str],
        on_found: Found,
        on_orders: Callable[[PeerId, str], None] = lambda _peer, _orders: None,
    ) -> None:
        self._on_orders = on_orders
        self._info: AsyncServiceInfo | None = None
        self._fleet = fleet
        self._me = me
        self._role = role
        self._facts = {"fleet": fleet, "role": role.value, "site": site, "id": me}
        self._port = port
        self._interfaces = list(interfaces)
        self._on_found = on_found
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._wide_browser: AsyncServiceBrowser | None = None
        self._dice = Dice(id(self))
        self._rate = Rate(HEARD_PER_S, Span(1.0), Instant(0.0))
        self._unresolved: dict[tuple[str, str], None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Discovery":
        """Begin; nothing happens when no interface is named."""
        if not self._interfaces:
            return self
        self._zeroconf = make_zeroconf(self._interfaces)
        self._info = self._service()
        await self._zeroconf.async_register_service(self._info, cooperating_responders=True)
        # Endpoints learn of each other from the mirror's roster; a thousand that browsed for each
        # other would drown in announcements (FACTS.md, zeroconf).
        wanted = TYPE if self._role is Role.MIRROR else MIRROR_TYPE
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, [wanted], handlers=[self._changed]
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say good-bye and stop."""
        for task in self._tasks:
            task.cancel()
        for browser in (self._browser, self._wide_browser):
            if browser is not None:
                await browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()

    async def say_orders(self, digest: bytes) -> None:
        """Put the head of the order set's digest into this mirror's record: a hint to sync."""
        self._facts = self._facts | {"orders": digest.hex()[:ORDERS_DIGITS]}
        if self._zeroconf is not None and self._info is not None:
            self._info = self._service()
            await self._zeroconf.async_update_service(self._info)

    def _service(self) -> AsyncServiceInfo:
        kind = MIRROR_TYPE if self._role is Role.MIRROR else TYPE
        return AsyncServiceInfo(
            kind,
            f"{self._me}.{kind}",
            addresses=_addresses(self._interfaces),
            port=self._port,
            properties=self._facts,
            server=f"{self._me}.local.",
        )

    async def browse_widely(self, *, is_wanted: bool) -> None:
        """Look for endpoints too, or no longer: where no mirror answers, nobody has a roster."""
        if self._zeroconf is None or is_wanted == (self._wide_browser is not None):
            return
        if self._wide_browser is not None:
            await self._wide_browser.async_cancel()
            self._wide_browser = None
            return
        self._wide_browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, [TYPE], handlers=[self._changed]
        )

    def _changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            # Anybody can say good-bye for anybody; a peer that is gone does not answer.
            return
        info = AsyncServiceInfo(service_type, name)
        # Beyond its rate it waits with those whose records are asked for.
        is_in_time = self._rate.take(Instant(asyncio.get_running_loop().time()))
        if is_in_time and info.load_from_cache(zeroconf):
            self._heard(info)
            return
        self._unresolved[service_type, name] = None
        if len(self._unresolved) > _UNRESOLVED_MAX:
            del self._unresolved[self._dice.pick([*self._unresolved])]
        if len(self._tasks) < _RESOLVED_MAX:
            task = asyncio.ensure_future(self._resolve_all(zeroconf))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _resolve_all(self, zeroconf: Zeroconf) -> None:
        while self._unresolved:
            service_type, name = self._dice.pick([*self._unresolved])
            del self._unresolved[service_type, name]
            info = AsyncServiceInfo(service_type, name)
            if await info.async_request(zeroconf, _RESOLVE_MS):
                self._heard(info)
            # However many there are, others come between.
            await asyncio.sleep(_RESOLVED_PAUSE_S)

    def _heard(self, info: AsyncServiceInfo) -> None:
        found = read_service(info, self._fleet)
        if found is not None and found[0] != self._me:
            self._on_found(*found)
            orders = info.decoded_properties.get("orders")
            if found[1] is Role.MIRROR and orders:
                self._on_orders(found[0], orders)


class Browse(Discovery):
    """Looks for peers of every role without advertising anything."""

    def __init__(self, fleet: FleetId, interfaces: Sequence[str], on_found: Found) -> None:
        super().__init__(
            fleet,
            PeerId(""),
            role=Role.OPERATOR,
            site="",
            port=0,
            interfaces=interfaces,
            on_found=on_found,
        )

    async def __aenter__(self) -> "Browse":
        """Begin to look."""
        self._zeroconf = make_zeroconf(self._interfaces)
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, [*TYPES], handlers=[self._changed]
        )
        return self


def make_zeroconf(interfaces: Sequence[str]) -> AsyncZeroconf:
    """Zeroconf on these interface addresses, or on every one when they are just `all`.

    Raises:
        Unavailable: an address is not this machine's.
    """
    chosen: Any = InterfaceChoice.All if list(interfaces) == ["all"] else list(interfaces)
    try:
        # Asked first, because zeroconf leaves a socket open when an address is not ours.
        for each in () if chosen is InterfaceChoice.All else chosen:
            family = socket.AF_INET6 if ":" in each else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((each, 0))
        return AsyncZeroconf(interfaces=chosen)
    except (OSError, ValueError) as error:
        raise Unavailable(f"mDNS on {', '.join(interfaces)}", why=str(error)) from error


def read_service(
    info: AsyncServiceInfo, fleet: FleetId
) -> tuple[PeerId, Role, tuple[str, int]] | None:
    """The peer that a service describes, if it is of this fleet and can be reached."""
    facts = info.decoded_properties
    # Link-local IPv6 needs a scope that DNS-SD does not carry.
    hosts = [
        each
        for each in info.parsed_addresses()
        if ":" not in each or not ipaddress.ip_address(each).is_link_local
    ]
    is_known = facts.get("role") in {Role.MIRROR.value, Role.AGENT.value}
    is_known = is_known and PEER_ID.fullmatch(str(facts.get("id"))) is not None
    if facts.get("fleet") != fleet or not is_known or not hosts or not info.port:
        return None
    return PeerId(str(facts.get("id"))), Role(str(facts["role"])), (hosts[0], info.port)


def _addresses(interfaces: Sequence[str]) -> list[bytes]:
    if list(interfaces) != ["all"]:
        return [ipaddress.ip_address(each).packed for each in interfaces]
    import ifaddr  # noqa: PLC0415  # comes with zeroconf

    found = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [socket.inet_aton(each) for each in found if not each.startswith("127.")]

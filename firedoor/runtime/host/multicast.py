"""Halts by LAN multicast: one datagram reaches whoever's connections are down.

* A node that has just admitted a halt says it within 50 ms, and again after pauses of 50, 150 and
  350 ms, unless it has heard two copies from others by then (Trickle): a thousand endpoints send a
  few.
* Nothing is ever answered, and at most 50 datagrams a second are verified: a flood costs little,
  and the connections carry the same bytes all the while.
* It is a hint of another kind than mDNS: what comes proves itself, whoever sent it.

IPv4 alone; the interfaces are those of mDNS. Source: halt/README.md, Paths (c); RFC 6206.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Any

from firedoor.dice import Dice
from firedoor.errors import Refused, Unavailable
from firedoor.halt.order import Halt
from firedoor.runtime.host.contract import Driver
from firedoor.runtime.logs import log
from firedoor.runtime.network.pacing import Rate
from firedoor.units import Span

# Organisation-local scope (RFC 2365): routers at a site's edge do not pass it.
GROUP = "239.255.70.68"
PORT = 7446

# halt/README.md, Paths.
FIRST_S = 0.05
REPEATS_S = (0.05, 0.15, 0.35)
HEARD_ENOUGH = 2
VERIFIED_PER_S = 50

# Whole within Ethernet's 1,500 bytes; a halt is about 250.
_DATAGRAM_BYTES_MAX = 1400

# Records whose copies are counted at one time.
_COUNTED_MAX = 256


class Multicast(asyncio.DatagramProtocol):
    """Hears and says halts on some interfaces, while entered. `interfaces`: as for mDNS."""

    def __init__(self, driver: Driver, interfaces: Sequence[str], dice: Dice) -> None:
        self._driver = driver
        self._interfaces = interfaces
        self._dice = dice
        self._rate = Rate(VERIFIED_PER_S, Span(1.0), driver.clock.now())
        self._heard: dict[bytes, int] = {}
        self._senders: list[socket.socket] = []
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> "Multicast":
        """Begin; a machine where that cannot be goes on without, and says so."""
        addresses = _addresses(self._interfaces)
        if not addresses:
            return self
        try:
            listener = _listener(addresses)
            self._senders = [_sender(each) for each in addresses]
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=listener)
        except OSError as error:
            log("multicast-off", level="warning", why=str(error))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        if self._transport is not None:
            self._transport.close()
        for sender in self._senders:
            sender.close()

    def spread(self, order: bytes) -> None:
        """An order was admitted here: if it is a halt, say it to the LAN."""
        held = self._driver.node.orders.get(order)
        is_fit = isinstance(held, Halt) and len(held.record) <= _DATAGRAM_BYTES_MAX
        if held is not None and is_fit and self._senders:
            self._driver.start(self._say(held.record))

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A datagram came; the sender's address proves nothing and is not used."""
        del addr
        if len(data) > _DATAGRAM_BYTES_MAX:
            return
        key = sha256(data).digest()
        if key in self._heard:
            self._heard[key] += 1
            return
        if not self._rate.take(self._driver.clock.now()):
            return
        try:
            self._driver.apply(self._driver.node.submit(data, None, self._driver.clock.now()))
        except Refused as refusal:
            self._driver.node.count_refusal(refusal)
        except Unavailable:
            return  # No keys to check it with yet.
        else:
            self._count(key)

    async def _say(self, record: bytes) -> None:
        key, mine = sha256(record).digest(), 0
        self._heard.setdefault(key, 0)
        await asyncio.sleep(FIRST_S * self._dice.fraction())
        for pause in (*REPEATS_S, 0.0):
            # What this node sends comes back to it, too.
            if self._heard.get(key, 0) - mine >= HEARD_ENOUGH:
                return
            mine += len(self._senders)
            for sender in self._senders:
                # A full queue or a line that is down: the connections carry it too.
                with suppress(OSError):
                    sender.sendto(record, (GROUP, PORT))
            await asyncio.sleep(pause)

    def _count(self, key: bytes) -> None:
        self._heard[key] = self._heard.get(key, 0) + 1
        while len(self._heard) > _COUNTED_MAX:
            del self._heard[next(iter(self._heard))]


def _addresses(interfaces: Sequence[str]) -> list[str]:
    """IPv4 addresses of this machine to use."""
    if list(interfaces) != ["all"]:
        return [each for each in interfaces if ":" not in each]
    import ifaddr  # noqa: PLC0415  # comes with zeroconf

    found = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [each for each in found if not each.startswith("127.")]


def _listener(addresses: Sequence[str]) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            # Several endpoints of one machine hear the same datagram.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("", PORT))
        for each in addresses:
            member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(each))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        made.setblocking(False)  # noqa: FBT003  # the standard library's signature
    except OSError:
        made.close()
        raise
    return made


def _sender(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    made.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return made

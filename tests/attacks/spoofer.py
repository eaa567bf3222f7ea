"""Announces machines that do not exist by mDNS, all at one address that takes connections and says
nothing, until it is killed. Writes one line once all have been announced.

Arguments: ADDRESS FLEET MIRRORS AGENTS.
"""

import asyncio
import socket
import sys
from collections.abc import Iterator

import uvloop
from zeroconf._dns import DNSAddress, DNSPointer, DNSService, DNSText
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.const import (
    _CLASS_IN,
    _CLASS_UNIQUE,
    _FLAGS_AA,
    _FLAGS_QR_RESPONSE,
    _TYPE_A,
    _TYPE_PTR,
    _TYPE_SRV,
    _TYPE_TXT,
)

from firedoor.runtime.network.discovery import MIRROR_TYPE, TYPE

GROUP = ("224.0.0.251", 5353)
TTL_S = 4500
UNIQUE = _CLASS_IN | _CLASS_UNIQUE

# Machines in one datagram, datagrams in a second, and how often all is said anew.
BATCH = 4
DATAGRAMS_PER_S = 400
AGAIN_S = 0.02


def packets(address: str, fleet: str, machines: list[tuple[str, str]]) -> Iterator[bytes]:
    """Answers that nobody has asked for, about these ids and roles."""
    for at in range(0, len(machines), BATCH):
        out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
        for peer, role in machines[at : at + BATCH]:
            kind = MIRROR_TYPE if role == "mirror" else TYPE
            name, host = f"{peer}.{kind}", f"{peer}.local."
            facts = (f"fleet={fleet}", f"role={role}", "site=branch", f"id={peer}")
            text = b"".join(bytes([len(each)]) + each.encode() for each in facts)
            where = socket.inet_aton(address)
            for answer in (
                DNSPointer(kind, _TYPE_PTR, _CLASS_IN, TTL_S, name),
                DNSService(name, _TYPE_SRV, UNIQUE, TTL_S, 0, 0, 7443, host),
                DNSText(name, _TYPE_TXT, UNIQUE, TTL_S, text),
                DNSAddress(host, _TYPE_A, UNIQUE, TTL_S, where),
            ):
                out.add_answer_at_time(answer, 0)
        yield from out.packets()


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection and never answer on it."""
    try:
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main(address: str, fleet: str, mirrors: int, agents: int) -> None:
    """Announce and swallow, for ever."""
    # Low ids, for whoever looks at them in order.
    fakes = [f"{number:032x}" for number in range(mirrors + agents)]
    loud = list(packets(address, fleet, [(each, "mirror") for each in fakes[:mirrors]]))
    many = list(packets(address, fleet, [(each, "agent") for each in fakes[mirrors:]]))
    server = await asyncio.start_server(swallow, address, 7443, backlog=4096)
    async with server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            where = socket.inet_aton(address)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, where)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # What comes from another port is taken for a question of a simple resolver.
            sender.bind((address, GROUP[1]))
            await asyncio.gather(say(sender, loud), say(sender, many, first="said"))


async def say(sender: socket.socket, packets: list[bytes], *, first: str = "") -> None:
    """Say it all again and again; write `first` after the first time."""
    while True:
        for packet in packets:
            sender.sendto(packet, GROUP)
            await asyncio.sleep(1 / DATAGRAMS_PER_S)
        if first:
            print(first, flush=True)
        first = ""
        await asyncio.sleep(AGAIN_S)


if __name__ == "__main__":
    _, address, fleet, mirrors, agents = sys.argv
    uvloop.run(main(address, fleet, int(mirrors), int(agents)))

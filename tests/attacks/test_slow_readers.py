"""One endpoint's certificate asks for a large manifest on all its connections, and reads slowly.

A reader that takes a little now and then is never found stalled, and costs no copy of its own.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress

import pytest

from firedoor.runtime.keys.tls import client_context
from tests.attacks.burdens import Streams, resident_mb_of, unnamed
from tests.unit.firedoor.runtime.network.test_transfers import AGENT, MANIFEST, Fake, site

pytestmark = pytest.mark.slow

# A release of some 60,000 files has such a manifest; 64 MiB are allowed.
MANIFEST_BYTES = 8 << 20

# As many as one certificate may have, but for a few.
CONNECTIONS = 60

# Several looks of the watch.
HELD_S = 25.0

MEMORY_MB_MAX = 128

REQUEST = f"GET /v1/targets/releases/app/{MANIFEST}.1.0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class Large(Fake):
    """As a catalogue reads a manifest from the disk for each request."""

    async def target(self, digest: str) -> bytes | None:
        return bytes([1]) * MANIFEST_BYTES


async def slow(port: int, context: ssl.SSLContext) -> Streams:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(0.0)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=made, ssl=context, server_hostname="", limit=1024)


async def trickle(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            await asyncio.sleep(1.0)


def test_slow_readers_of_one_certificate_hold_no_memory() -> None:
    async def story() -> float:
        async with site(Large()) as made:
            context = unnamed(client_context(AGENT))
            before = resident_mb_of(os.getpid())
            writers, tasks = [], []
            for _ in range(CONNECTIONS):
                reader, writer = await slow(made.port, context)
                writer.write(REQUEST)
                writers.append(writer)
                tasks.append(asyncio.ensure_future(trickle(reader)))
                await asyncio.sleep(0.02)
            # What is held is looked at after a while, not when it comes.
            await asyncio.sleep(HELD_S)
            held = resident_mb_of(os.getpid()) - before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0.2)
            return held

    assert asyncio.run(story()) < MEMORY_MB_MAX

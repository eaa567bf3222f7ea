"""A machine without a certificate that connects and says nothing, as fast as it can.

An honest one elsewhere needs some round trips for its handshake, and is not ended for the others.
"""

import asyncio
import ssl
import sys
import time
from pathlib import Path

import pytest

from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of
from firedoor.runtime.settings import split_address
from tests.attacks.burdens import begin_origin, cpu_s_of, pid_of, running, unnamed
from tests.live.lab import LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

TRIES = 12
PER_S = 3000

# Of a far site's line; and how long one of its requests may take in all.
RTT_S = 0.1
SPAN_S = 8.0

REFUSED = float("inf")

REQUEST = b"GET /v1/metadata/timestamp.json HTTP/1.1\r\nHost: x\r\n\r\n"

CONNECT = """
import collections, socket, sys, time
host, port, per_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held, began, sent = collections.deque(), time.monotonic(), 0
print("begun", flush=True)
while True:
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex((host, port))
    held.append(made)
    sent += 1
    if len(held) > 300:
        held.popleft().close()
    ahead = sent / per_s - (time.monotonic() - began)
    if ahead > 0.002:
        time.sleep(ahead)
"""


class FarTalk:
    """One TLS connection by hand, each of whose round trips takes RTT_S."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._talk = context.wrap_bio(self._incoming, self._outgoing)

    async def shake_hands(self) -> None:
        """Raises ConnectionResetError: the other side has hung up; so does `answer_to`."""
        while True:
            try:
                self._talk.do_handshake()
            except ssl.SSLWantReadError:
                await self._carry()
            else:
                return

    async def answer_to(self, request: bytes) -> bytes:
        """The first part of it."""
        self._talk.write(request)
        while True:
            try:
                return self._talk.read(65536)
            except ssl.SSLWantReadError:
                await self._carry()

    async def _carry(self) -> None:
        self._writer.write(self._outgoing.read())
        part = await self._reader.read(65536)
        await asyncio.sleep(RTT_S)
        if not part:
            raise ConnectionResetError("hung up")
        self._incoming.write(part)


async def far_get(host: str, port: int, context: ssl.SSLContext) -> float:
    """How long a small file takes from a far site; REFUSED: it does not come."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    talk = FarTalk(reader, writer, context)
    try:
        async with asyncio.timeout(SPAN_S):
            await talk.shake_hands()
            assert (await talk.answer_to(REQUEST)).startswith(b"HTTP/1.1 200")
    except (OSError, TimeoutError):
        return REFUSED
    finally:
        writer.transport.abort()
    return round(time.monotonic() - began, 3)


def test_connections_without_a_word_keep_nobody_out(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await begin_origin(site)
        host, port = split_address(site.programs["origin"].address)
        prefix, _ = site._lab.host("stranger")
        key = read_key_file(site.fleet / "keys" / "operator.key", str)
        context = unnamed(client_context(credentials_of(key)))

        async def tries() -> list[float]:
            return [await far_get(host, port, context) for _ in range(TRIES)]

        quiet = await tries()
        words = (sys.executable, "-c", CONNECT, host, str(port), str(PER_S))
        async with running(*words, prefix=prefix) as out:
            await out.readline()
            # Until there are as many at once as there will be.
            await asyncio.sleep(1.0)
            pid = pid_of(site, "origin")
            cpu_s, began = cpu_s_of(pid), time.monotonic()
            flooded = await tries()
            share = (cpu_s_of(pid) - cpu_s) / (time.monotonic() - began)
        print(f"quiet {quiet}, flooded {flooded}, {share:.2f} of a core")
        assert REFUSED not in quiet
        assert flooded.count(REFUSED) <= TRIES // 4

    tell(tmp_path, story)

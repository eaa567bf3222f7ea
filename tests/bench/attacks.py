"""Attacks of one certificate or key, or of nobody, as fast as they are let (see flood.py).

Each is a coroutine that goes on until it is cancelled, and counts what it has sent.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from firedoor.errors import FiredoorError
from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of, role_name
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.wire.codec import pack
from firedoor.wire.messages import (
    Announce,
    Beacon,
    Health,
    Hello,
    Message,
    OrderIds,
    OrdersDone,
    ProductHealth,
    Report,
    encode_message,
)
from tests.bench.mailbox import Voice

HERE = "127.0.0.1"

# What one attacker holds open at a time.
CONNECTIONS = 200

# One more attempt after one that was refused.
AGAIN_S = 0.01

MIB = 1 << 20


@dataclass
class Means:
    """What an attacker knows and holds. `endpoints`: where endpoints listen."""

    port: int
    enrol_port: int
    agent: KeyFile
    mirror: KeyFile
    release: KeyFile
    endpoints: list[int]
    sent: int = 0
    held: set[asyncio.Task[None]] = field(default_factory=set)


def run_attack(order: dict[str, Any]) -> None:
    """Attack for `seconds`, then say how much was sent."""
    voice = Voice(Path(order["mailbox"]), order["index"])
    keys = [read_key_file(Path(order[name]), str) for name in ("agent", "mirror", "release")]
    means = Means(order["port"], order["enrol_port"], keys[0], keys[1], keys[2], order["endpoints"])

    async def bounded() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(order["seconds"]):
                await ATTACKS[order["attack"]](means)

    asyncio.run(bounded())
    voice.tell("attacked", order["attack"], means.sent, 0, order["seconds"])


async def _again(attempt: Callable[[], Awaitable[None]], pause_s: float = AGAIN_S) -> None:
    """One attempt after the other, whatever becomes of each."""
    while True:
        with suppress(FiredoorError, aiohttp.ClientError, OSError, RuntimeError, ValueError):
            await attempt()
        await asyncio.sleep(pause_s)


def _client(key: KeyFile) -> PeerClient:
    return PeerClient(credentials_of(key), Clock(), Budget(0))


async def _talk(means: Means, key: KeyFile, port: int, role: Role, *frames: bytes) -> None:
    """One conversation in which these frames are said again and again, as fast as they leave."""
    client = _client(key)
    try:
        _, talk = await client.dial(HERE, port, role=role)
        for opening in (Hello(bytes(32), 0), OrdersDone(), OrderIds(())):
            talk.send(encode_message(opening))
        hearing = asyncio.ensure_future(_hear(talk))
        while not hearing.done():
            for frame in frames:
                # Its own queue is full: what is sent faster than it is read is the sender's loss.
                while not talk.is_closing and len(talk._urgent) > CONNECTIONS:
                    await asyncio.sleep(0.001)
                means.sent += talk.send(frame)
            await asyncio.sleep(0)
        await hearing
    finally:
        await client.close()


async def _hear(talk: Any) -> None:
    async for _ in talk.frames():
        pass


def _report(peer: str, details: int = 1) -> Report:
    rows = tuple(ProductHealth(f"p{n}", "1", "ab" * 32, "idle", "x" * 400) for n in range(details))
    return Report(peer, "agent", "branch", rows, ())


# --- with an endpoint's certificate --------------------------------------------------------------


async def large_reports(means: Means) -> None:
    """Reports as large as a frame."""
    frame = encode_message(Health((_report(means.agent.name, 255),)))
    await _again(lambda: _talk(means, means.agent, means.port, Role.MIRROR, frame))


async def reports(means: Means) -> None:
    """Reports of 200 bytes without end."""
    frames = [
        encode_message(Health((Report(means.agent.name, "agent", "branch", (), (), lease_s=n),)))
        for n in range(64)
    ]
    await _again(lambda: _talk(means, means.agent, means.port, Role.MIRROR, *frames))


async def frames(means: Means) -> None:
    """Beacons of no bytes without end."""
    frame = encode_message(Beacon(b""))
    await _again(lambda: _talk(means, means.agent, means.port, Role.MIRROR, frame))


# --- with a mirror's certificate -----------------------------------------------------------------


async def invented(means: Means) -> None:
    """Reports of endpoints that do not exist."""

    async def one() -> None:
        made = [_report(os.urandom(16).hex()) for _ in range(2048)]
        parts = [tuple(made[at : at + 32]) for at in range(0, len(made), 32)]
        shown = [encode_message(Health(part)) for part in parts]
        await _talk(means, means.mirror, means.port, Role.MIRROR, *shown)

    await _again(one)


async def claims(means: Means) -> None:
    """Claims of the newest metadata, at every endpoint, that are never redeemed."""
    shown: list[Message] = [Announce(2**40 + number, 2**40) for number in range(64)]
    said = [encode_message(each) for each in shown]
    each = [
        _again(lambda port=port: _talk(means, means.mirror, port, Role.AGENT, *said))  # type: ignore[misc]
        for port in means.endpoints
    ]
    await asyncio.gather(*each)


async def status(means: Means) -> None:
    """Questions for the whole status, many at a time."""
    client = _client(means.mirror)

    async def one() -> None:
        await client.get(HERE, means.port, "/v1/status", role=Role.MIRROR, limit=64 * MIB)
        means.sent += 1

    await asyncio.gather(*(_again(one) for _ in range(50)))


# --- with a release key --------------------------------------------------------------------------


async def _posts(means: Means, path: str, body: bytes, headers: dict[str, str]) -> None:
    client = _client(means.release)

    async def one() -> None:
        means.sent += 1
        await client.post(HERE, means.port, path, body, limit=MIB, headers=headers)

    await asyncio.gather(*(_again(one) for _ in range(8)))


async def tokens(means: Means) -> None:
    """Requests for tokens by a key that is no operator's."""
    body = b'{"role": "mirror", "site": "branch", "ring": "broad", "span_s": 3600}'
    await _posts(means, "/v1/tokens", body, {})


async def pieces(means: Means) -> None:
    """Pieces of 4 MiB that no release names."""
    await _posts(means, "/v1/publish/piece", os.urandom(4 * MIB), {"X-Piece": "ab" * 32})


async def bombs(means: Means) -> None:
    """Releases whose manifest is as large as a body may be."""
    body = pack({"role": "releases/main", "metadata": bytes(MIB), "manifest": bytes(30 * MIB)})
    await _posts(means, "/v1/publish/release", body, {})


# --- with nothing --------------------------------------------------------------------------------


async def spin(means: Means) -> None:
    """No attack: a core is burnt, as the others burn one, and nothing is sent to anybody."""
    while True:
        os.urandom(MIB)
        await asyncio.sleep(0)


async def _hold(means: Means, port: int, context: ssl.SSLContext | None, words: bytes) -> None:
    reader, writer = await asyncio.open_connection(
        HERE, port, ssl=context, server_hostname=role_name(Role.MIRROR) if context else None
    )
    means.sent += 1
    try:
        writer.write(words)
        await reader.read()
    finally:
        writer.transport.abort()


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def half_requests(means: Means) -> None:
    """Connections that say half a request, or nothing, on both ports."""
    certified = client_context(credentials_of(means.agent))
    half = b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    ways = [
        lambda: _hold(means, means.enrol_port, _anybody(), half),
        lambda: _hold(means, means.enrol_port, None, b""),
        lambda: _hold(means, means.port, certified, half),
        lambda: _hold(means, means.port, None, b"\x16\x03\x01"),
    ]
    # Each is held for as long as it is let; another takes its place a second later.
    await asyncio.gather(*(_again(way, 1.0) for way in ways for _ in range(CONNECTIONS)))


async def packed(means: Means) -> None:
    """Bodies that are packed, on the enrolment port."""
    head = (
        b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\n"
        b"Content-Length: 262144\r\n\r\n"
    )
    body = head + os.urandom(262_144)
    await asyncio.gather(
        *(_again(lambda: _hold(means, means.enrol_port, _anybody(), body)) for _ in range(8))
    )


async def connects(means: Means) -> None:
    """Connections that say nothing and are given up at once."""

    async def one() -> None:
        _, writer = await asyncio.open_connection(HERE, means.port)
        means.sent += 1
        await asyncio.sleep(0.05)
        writer.transport.abort()

    await asyncio.gather(*(_again(one) for _ in range(CONNECTIONS)))


async def mdns(means: Means) -> None:
    """Machines that do not exist, announced on the LAN."""
    command = (sys.executable, "-m", "tests.attacks.spoofer", HERE, means.agent.fleet, "60", "2300")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    means.sent = 1
    try:
        await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


ATTACKS: dict[str, Callable[[Means], Awaitable[None]]] = {
    "spin": spin,
    "large-reports": large_reports,
    "tokens": tokens,
    "pieces": pieces,
    "invented": invented,
    "claims": claims,
    "half-requests": half_requests,
    "packed": packed,
    "reports": reports,
    "mdns": mdns,
    "bombs": bombs,
    "frames": frames,
    "status": status,
    "connects": connects,
}

"""Peers that hold a real certificate of the fleet and say what they like on /v1/peer.

They run in the test's own process, on the operator's machine of a lab. Nothing of ours stands
between them and the wire but the codec; `frame_of` leaves even that out.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ssl import SSLError
from typing import Any, TypeVar

import aiohttp
from aiohttp import WSMsgType

from firedoor.cli.demo.local_fleet import Program
from firedoor.errors import Refused
from firedoor.identity import Role
from firedoor.limits import FRAME_BYTES_MAX
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of, role_name, server_context
from firedoor.runtime.settings import split_address
from firedoor.wire.codec import pack
from firedoor.wire.messages import (
    TAGS,
    Beat,
    Health,
    Hello,
    LeaseAsked,
    LeaseGiven,
    Message,
    OrderIds,
    OrdersDone,
    Report,
    decode_message,
    encode_message,
)
from tests.live.lab import NETWORK, PORT, LabSite, Table

# The test's thread lives here while a lab is open.
HERE = f"{NETWORK}.1"

# What an honest program does at once, on a machine that does much else.
SOON_S = 12.0

M = TypeVar("M")


class Talk:
    """One standing connection, spoken by hand."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._heard: list[Message] = []
        self._notified = asyncio.Event()
        self.is_over = False

    async def say(self, *messages: object) -> None:
        """Send some messages; waits while the other side reads no further."""
        for message in messages:
            await self.say_frame(encode_message(message))

    async def say_frame(self, frame: bytes) -> None:
        """Send bytes as they are; nothing once the other side has hung up."""
        if not self.is_over:
            with suppress(ConnectionError):
                await self._socket.send_bytes(frame)

    async def flood(self, frames: Sequence[bytes], *, per_s: int) -> None:
        """Send these frames in turn, for ever, or until the other side hangs up."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while not self.is_over:
            await self.say_frame(frames[sent % len(frames)])
            sent += 1
            ahead = sent / per_s - (loop.time() - began)
            if ahead > 0.01:
                await asyncio.sleep(ahead)

    async def until(self, kind: type[M], span_s: float = SOON_S) -> M:
        """The first message of this kind that has come or comes.

        Raises:
            ConnectionResetError: the other side has hung up.
        """
        async with asyncio.timeout(span_s):
            while True:
                for message in self._heard:
                    if isinstance(message, kind):
                        return message
                if self.is_over:
                    raise ConnectionResetError("the other side has hung up")
                self._notified.clear()
                await self._notified.wait()

    async def heard_out(self) -> None:
        """Wait until a mirror has read whatever was said so far, or has hung up over it.

        Frames are read in turn, and it answers the last one.
        """
        self._heard.clear()
        await self.say(LeaseAsked(os.urandom(32), is_urgent=True))
        with suppress(ConnectionResetError):
            await self.until(LeaseGiven)

    async def hear(self) -> None:
        """Keep what the other side says, until it hangs up."""
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    with suppress(Refused):
                        said = decode_message(message.data)
                        assert said is not None
                        self._heard.append(said)
                    self._notified.set()
        finally:
            self.is_over = True
            self._notified.set()


@asynccontextmanager
async def talking(
    key: KeyFile, address: str, role: Role, *, port: int = 0, is_beating: bool = False
) -> AsyncIterator[Talk]:
    """A conversation with the program of this role at HOST:PORT, once orders are in step.

    `port`: where this peer says that it listens; `is_beating`: it shows signs of life, as a mirror
    must to an endpoint.
    """
    host, at = split_address(address)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"https://{host}:{at}/v1/peer",
            ssl=client_context(credentials_of(key)),
            server_hostname=role_name(role),
            max_msg_size=FRAME_BYTES_MAX,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        ) as socket,
    ):
        talk = Talk(socket)
        work = [asyncio.ensure_future(talk.hear())]
        if is_beating:
            work.append(asyncio.ensure_future(talk.flood([encode_message(Beat())], per_s=1)))
        try:
            await talk.say(Hello(bytes(32), port), OrdersDone(), OrderIds(()))
            await talk.until(OrdersDone)
            yield talk
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)


@asynccontextmanager
async def silence(key: KeyFile, *, is_trickling: bool = False) -> AsyncIterator[int]:
    """A listener that shows this certificate, takes every request and answers none; its port.

    `is_trickling`: it begins an answer, and goes on with a byte each second.
    """
    open_ones: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones[writer] = asyncio.current_task()
        with suppress(OSError, SSLError):
            while await reader.read(1 << 16):
                await trickle(writer)
        del open_ones[writer]

    async def trickle(writer: asyncio.StreamWriter) -> None:
        if is_trickling:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        while is_trickling and not writer.is_closing():
            writer.write(b"{")
            await writer.drain()
            await asyncio.sleep(1.0)

    context = server_context(credentials_of(key))
    server = await asyncio.start_server(swallow, HERE, 0, ssl=context)
    try:
        port: int = server.sockets[0].getsockname()[1]
        yield port
    finally:
        server.close()
        for writer in open_ones:
            writer.transport.abort()
        if tasks := [task for task in open_ones.values() if task is not None]:
            await asyncio.wait(tasks, timeout=SOON_S)


async def stolen(site: LabSite, name: str, role: Role, *, place: str = "branch") -> KeyFile:
    """The key of a machine that was enrolled as every other is, and runs none of our programs."""
    program = Program(name, role, f"{HERE}:{PORT}", site.folder / name)
    await site.add(program, site=place)
    return read_key_file(site.folder / name / "state" / "identity.key", str)


def frame_of(kind: type[Message], fields: Table) -> bytes:
    """A frame of this kind with just these fields, right or wrong."""
    tag = next(tag for tag, each in TAGS.items() if each is kind)
    return pack([tag, fields])


def healths(reports: Sequence[Report], size: int) -> list[Health]:
    """These reports as messages of at most `size` each."""
    return [Health(tuple(reports[at : at + size])) for at in range(0, len(reports), size)]


def row_of(status: Table | None, peer: str) -> Table:
    """The row of an endpoint in a mirror's status; empty when it has none."""
    rows = (status or {}).get("endpoints", [])
    row: Table = next((row for row in rows if row["id"] == peer), {})
    return row


def versions_of(row: Table) -> list[str]:
    """What the endpoint of such a row runs, as its mirror knows."""
    return [str(product["version"]) for product in row.get("products", [])]


async def id_of(site: LabSite, name: str) -> str:
    """The id of a program that runs."""
    status = await site.status(name)
    assert status is not None
    return str(status["id"])


def times_synced(site: LabSite, name: str, peer: str) -> int:
    """How often this program's conversation with `peer` was opened, as its log says."""
    lines = (site.folder / name / "log").read_text("utf-8").splitlines()
    return sum("peer-synced" in line and peer in line for line in lines)


async def soon(
    site: LabSite, what: str, holds: Callable[[], Awaitable[Any]], span_s: float = SOON_S
) -> None:
    """Wait until `holds()`, and not for long."""
    await site.until(what, holds, span_s)


async def until_runs(site: LabSite, product: str, version: str, name: str) -> None:
    """Wait until this endpoint runs that version, and not for long."""

    async def runs() -> bool:
        rows = (await site.status(name) or {}).get("products", [])
        return any((row["product"], row["version"]) == (product, version) for row in rows)

    await soon(site, f"{name} runs {product} {version}", runs)

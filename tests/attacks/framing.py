"""One message without end, by whoever has a certificate, faster than a client would send it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.keys.tls import client_context, credentials_of, role_name
from firedoor.runtime.settings import split_address
from firedoor.units import KIB
from firedoor.wire.messages import Hello, OrderIds, OrdersDone, encode_message

_SHORT, _LONG = 126, 1 << 16

# Written at once.
_BLOB_BYTES = 128 * KIB


def masked(payload: bytes) -> bytes:
    """A binary WebSocket frame (RFC 6455, 5.2) below 64 KiB, with a mask of zeros."""
    assert len(payload) < _LONG
    is_short = len(payload) < _SHORT
    size = bytes([0x80 | len(payload)]) if is_short else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x82" + size + bytes(4) + payload


@asynccontextmanager
async def flooding(
    key: KeyFile, address: str, role: Role, payload: bytes
) -> AsyncIterator[list[int]]:
    """Send this message again and again, as fast as it is read; how many bytes of it."""
    host, at = split_address(address)
    frame = masked(payload)
    blob = frame * max(1, _BLOB_BYTES // len(frame))
    sent = [0]

    async def once(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(
            f"https://{host}:{at}/v1/peer",
            ssl=client_context(credentials_of(key)),
            server_hostname=role_name(role),
        ) as socket:
            for each in (Hello(bytes(32), 0), OrdersDone(), OrderIds(())):
                await socket.send_bytes(encode_message(each))
            writer = socket._writer
            try:
                while not writer.transport.is_closing():
                    if writer.transport.get_write_buffer_size() > len(blob):
                        await asyncio.sleep(0.005)
                        continue
                    writer.transport.write(blob)
                    sent[0] += len(blob)
                    await asyncio.sleep(0)
            finally:
                writer.transport.abort()

    async def forever() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    await once(session)
                except (aiohttp.ClientError, OSError, RuntimeError):
                    await asyncio.sleep(0.05)

    task = asyncio.ensure_future(forever())
    try:
        yield sent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

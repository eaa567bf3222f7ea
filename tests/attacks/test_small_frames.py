"""One endpoint's certificate, one connection each to origin and mirror, and endless tiny frames.

Frames that lie ready are read in one turn of the event loop; what waits there waits not for long.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from firedoor.identity import Role
from firedoor.runtime.key_files import KeyFile, read_key_file
from firedoor.runtime.settings import split_address
from firedoor.runtime.tls import client_context, credentials_of, role_name
from firedoor.wire.messages import (
    Beacon,
    Beat,
    Hello,
    Message,
    OrderIds,
    OrdersDone,
    encode_message,
)
from tests.attacks.burdens import cpu_s_of, pid_of
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


def masked(payload: bytes) -> bytes:
    """A WebSocket frame with a mask of zeros."""
    assert len(payload) < 126
    return bytes([0x82, 0x80 | len(payload)]) + bytes(4) + payload


@asynccontextmanager
async def flooding(
    key: KeyFile, address: str, role: Role, payload: bytes
) -> AsyncIterator[list[int]]:
    """Send this message again and again, as fast as it is read; how many MiB of it."""
    host, at = split_address(address)
    blob = masked(payload) * (MIB // len(masked(payload)))
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
                    sent[0] += 1
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


# A beacon of no bytes is refused, a beat is none too many: neither may cost others their turn.
@pytest.mark.parametrize("message", [Beacon(b""), Beat()], ids=["beacon", "beat"])
def test_tiny_frames_of_one_endpoint_delay_no_halt(tmp_path: Path, message: Message) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        key = await stolen(site, "thief", Role.AGENT)
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        origin, mirror = (site.programs[each].address for each in ("origin", "mirror"))
        log, pid = site.folder / "origin" / "log", pid_of(site, "origin")
        frame = encode_message(message)
        async with talking(operator, origin, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            size = log.stat().st_size
            async with (
                flooding(key, origin, Role.MIRROR, frame) as sent,
                flooding(key, mirror, Role.MIRROR, frame),
            ):
                # Until every buffer on the way is full.
                await asyncio.sleep(2.0)
                began, cpu_s = time.monotonic(), cpu_s_of(pid)
                flooded = await spans_of_halts(site, talk, honest)
                share = (cpu_s_of(pid) - cpu_s) / (time.monotonic() - began)
        grown = log.stat().st_size - size
        print(f"quiet {quiet}, flooded {flooded}, {share:.2f} of a core")
        print(f"{sent[0]} MiB sent, log grown by {grown} bytes")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

"""One endpoint's certificate, and lists of numbers in small frames, each milliseconds to read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from firedoor.identity import Role
from firedoor.limits import LIST_ITEMS_MAX
from firedoor.runtime.key_files import KeyFile, read_key_file
from firedoor.runtime.settings import split_address
from firedoor.runtime.tls import client_context, credentials_of, role_name
from firedoor.wire.messages import Have, Hello, OrderIds, OrdersDone, encode_message
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Of a release that does not exist; nothing of it is kept.
FRAME = encode_message(Have("a" * 64, (0,) * LIST_ITEMS_MAX))


def masked(payload: bytes) -> bytes:
    """A WebSocket frame with a mask of zeros."""
    return bytes([0x82, 0x80 | 126]) + len(payload).to_bytes(2, "big") + bytes(4) + payload


@asynccontextmanager
async def flooding(
    key: KeyFile, address: str, role: Role = Role.MIRROR
) -> AsyncIterator[list[int]]:
    """Send the frame again and again, as fast as it is read; how many times."""
    host, at = split_address(address)
    blob = masked(FRAME) * 16
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
                    sent[0] += 16
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


def test_long_lists_of_one_endpoint_delay_no_halt(tmp_path: Path) -> None:
    """Frames are counted, and what it costs to read one is not."""

    async def story(site: LabSite) -> None:
        await site.begin()
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        key = await stolen(site, "thief", Role.AGENT)
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        origin, mirror = (site.programs[each].address for each in ("origin", "mirror"))
        async with talking(operator, origin, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            async with (
                flooding(key, origin) as sent,
                flooding(key, mirror),
                flooding(key, site.programs[honest].address, Role.AGENT),
            ):
                await asyncio.sleep(2.0)
                before = sent[0]
                flooded = await spans_of_halts(site, talk, honest)
                print(f"quiet {quiet}, flooded {flooded}, {sent[0] - before} frames")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

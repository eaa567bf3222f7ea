"""One endpoint's certificate, one connection each to origin and mirror, and endless tiny frames.

Frames that lie ready are read in one turn of the event loop; what waits there waits not for long.
"""

import asyncio
import time
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.wire.messages import (
    Beacon,
    Beat,
    Message,
    encode_message,
)
from tests.attacks.burdens import cpu_s_of, pid_of
from tests.attacks.framing import flooding
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


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
        print(f"{sent[0] // MIB} MiB sent, log grown by {grown} bytes")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

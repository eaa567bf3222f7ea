"""One endpoint's certificate, and lists of numbers in small frames, each milliseconds to read."""

import asyncio
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.limits import LIST_ITEMS_MAX
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.wire.messages import Have, encode_message
from tests.attacks.framing import flooding
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Of a release that does not exist; nothing of it is kept.
LIST = encode_message(Have("a" * 64, (0,) * LIST_ITEMS_MAX))


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
                flooding(key, origin, Role.MIRROR, LIST) as sent,
                flooding(key, mirror, Role.MIRROR, LIST),
                flooding(key, site.programs[honest].address, Role.AGENT, LIST),
            ):
                await asyncio.sleep(2.0)
                before = sent[0]
                flooded = await spans_of_halts(site, talk, honest)
                print(f"quiet {quiet}, flooded {flooded}, {(sent[0] - before) // len(LIST)} lists")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

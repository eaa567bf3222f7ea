"""A mirror of any site that claims newer metadata, over and over, and serves nothing.

It is none of the endpoint's sources, and makes it look at its own mirror anew no oftener than that.
"""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.wire.messages import Announce, encode_message
from tests.attacks.burdens import cpu_s_of, pid_of
from tests.attacks.hostile import stolen, talking
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

PER_S = 20

# What a share of a core is measured over.
SPAN_S = 10.0

# At rest an endpoint takes 0.0014 of a core.
SHARE_MAX = 0.1


def test_claims_over_and_over_cost_no_endpoint_its_cores(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        key = await stolen(site, "claimer", Role.MIRROR, place="annex")
        address = site.programs[honest].address
        frames = [encode_message(Announce(2**40 - each, 3)) for each in range(1000)]
        async with talking(key, address, Role.AGENT, port=1, is_beating=True) as talk:
            flood = asyncio.ensure_future(talk.flood(frames, per_s=PER_S))
            try:
                await asyncio.sleep(1.0)
                shares = await shares_of(site, honest, "mirror")
            finally:
                flood.cancel()
                with suppress(asyncio.CancelledError):
                    await flood
        print("of a core, endpoint and mirror:", shares)
        assert shares[0] < SHARE_MAX

    tell(tmp_path, story)


async def shares_of(site: LabSite, *names: str) -> list[float]:
    """What part of a core each of these programs takes from now on, over SPAN_S."""
    pids = [pid_of(site, name) for name in names]
    began, before = time.monotonic(), [cpu_s_of(pid) for pid in pids]
    await asyncio.sleep(SPAN_S)
    span_s = time.monotonic() - began
    return [(cpu_s_of(pid) - cpu_s) / span_s for pid, cpu_s in zip(pids, before, strict=True)]

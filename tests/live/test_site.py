"""A site of real processes, each on a machine of its own, found by real mDNS."""

from pathlib import Path

import pytest

from firedoor.cli.site import version_of
from tests.live.lab import (
    LEAK_BYTES_MAX,
    MIB,
    LabSite,
    product_of,
    received,
    release_of,
    tell,
)

pytestmark = pytest.mark.live

# Slow enough that 8 MiB are still under way when an order comes.
THIN = 300_000


def test_a_site_takes_a_release_from_the_origin_once_and_shares_it(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        payload = 8 * MIB
        await site.begin(rate="100mbit")
        names = await site.enrol(8, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", payload)
        statuses = await site.until_running("kiosk", "1.0", names)
        mirror = (await site.statuses(["mirror"]))["mirror"]
        from_mirror = sum(each["bytes"]["mirror"] for each in statuses.values())
        from_peers = sum(each["bytes"]["peer"] for each in statuses.values())
        assert mirror["bytes"]["upstream"] <= 1.05 * payload
        assert from_mirror + from_peers <= 1.05 * payload * len(names)
        assert from_peers > from_mirror

    tell(tmp_path, story)


def test_a_halt_at_the_mirror_stops_a_transfer_and_nothing_else(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(4, ["kiosk", "manuals"], receive=THIN)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", names)
        await site.halt("kiosk==1.0", at="mirror")
        halted = await site.until_halted([*names, "mirror", "origin"])
        await site.publish("manuals", "1.0", MIB // 2)
        later = await site.until_running("manuals", "1.0", names)
        for name in names:
            release = release_of(later[name], "kiosk")
            assert release["pieces_have"] < release["pieces_total"]
            assert release["pieces_have"] <= release_of(halted[name], "kiosk")["pieces_have"]
            assert later[name]["covered"]["bytes"] <= LEAK_BYTES_MAX
            assert product_of(later[name], "kiosk")["activations"] == 0
            assert version_of(later[name], "kiosk") == ""

    tell(tmp_path, story)

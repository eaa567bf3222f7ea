"""Beacon keys outside the origin, with real processes: a witness, and a second origin."""

from pathlib import Path

import pytest

from tests.live.lab import MIB, LabSite, Table, product_of, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


async def give_a_beacon_key(site: LabSite, *, threshold: int) -> None:
    """The site's mirror gets the fleet's second beacon key; so many must sign."""
    public = await site.firedoor("keys", "beacon", "--state", str(site.folder / "mirror" / "state"))
    again = await site.firedoor("keys", "beacon", "--state", str(site.folder / "mirror" / "state"))
    assert again == public
    await site.kill("mirror")
    await site.start("mirror")
    await site.firedoor("keys", "rotate", "beacon", "--fleet", str(site.fleet),
                        "--with", public.strip(), "--threshold", str(threshold))  # fmt: skip


def waits_for_a_lease(status: Table) -> bool:
    return "waits for a lease" in product_of(status, "kiosk")["detail"]


def test_without_its_witness_the_origin_makes_no_lease(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        await give_a_beacon_key(site, threshold=2)
        names = await site.enrol(1, ["kiosk"], mirrors=[site.programs["origin"].address])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", names)
        key = str(site.fleet / "keys" / "halt-1.key")
        said = await site.firedoor("halt", "map==1", "--reason", "it is bad", "--key", key,
                                   "--to", site.programs["origin"].address)  # fmt: skip
        assert "committed by the origin" in said
        # The lease that it has may be used up first: it is 30 seconds old at most.
        await site.kill("mirror")
        await site.kill(names[0])
        await site.start(names[0])
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.until_all("it waits for a lease", names, waits_for_a_lease)
        await site.start("mirror")
        await site.until_running("kiosk", "2.0", names)

    tell(tmp_path, story)


def test_a_second_origin_makes_leases_while_the_first_is_dead(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        await give_a_beacon_key(site, threshold=1)
        first = await site.enrol(1, ["kiosk"])
        late = await site.enrol(1, ["kiosk"])
        await site.start_all(first)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", first)
        key = str(site.fleet / "keys" / "halt-1.key")
        said = await site.firedoor("halt", "map==1", "--reason", "it is bad", "--key", key,
                                   "--to", site.programs["origin"].address)  # fmt: skip
        assert "committed by the origin" in said
        await site.kill("origin")
        await site.start_all(late)
        await site.until_running("kiosk", "1.0", late)
        # Who cannot reach the first origin is told that its bound does not run yet.
        words = ("map==2", "--reason", "it is bad", "--key", key, "--wait", "4")
        said = await site.firedoor("halt", *words, "--to", site.programs["mirror"].address)
        assert "not yet committed" in said

    tell(tmp_path, story)

"""An air-gapped site, with real processes: a stick is all that goes between it and its fleet."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firedoor.cli.airgap.bundle import Stick
from firedoor.identity import FleetId, Role
from firedoor.wire.stick import Question
from tests.live.lab import MIB, STEP_S, LabSite, clock_off_by, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


async def begin(site: LabSite, count: int) -> list[str]:
    """An origin, and a site whose mirror and endpoints were enrolled before they were cut off."""
    await site.begin_origin()
    await site.add(site.program("mirror", Role.MIRROR, {"lease": "air-gapped"}))
    names = await site.enrol(count, ["kiosk"], lease="air-gapped")
    site.cut_off("origin")
    await site.start_all(["mirror", *names])
    return names


async def carry(site: LabSite, *places: str) -> str:
    """Take the stick to these programs; what was said at the last of them."""
    said = ""
    for place in places:
        said = await site.firedoor(
            "carry", str(site.folder / "stick"), "--to", site.programs[place].address,
            "--key", str(site.fleet / "keys" / "operator.key"),
        )  # fmt: skip
    return said


async def until_asked(site: LabSite, count: int) -> None:
    """So many of the site, its mirror among them, wait for a lease by stick."""
    await site.until_all("they ask", ["mirror"], lambda each: each["waiting_for_stick"] == count)


async def begin_asked(site: LabSite) -> list[str]:
    """A site of one endpoint that has had its metadata by stick, and asks for leases."""
    names = await begin(site, 1)
    await carry(site, "origin", "mirror")
    await until_asked(site, 2)
    return names


def test_an_air_gapped_site_installs_and_halts_what_a_stick_brings(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        names = await begin(site, 3)
        await site.publish("kiosk", "1.0", 3 * MIB)
        assert "nothing has come for this site yet" in await carry(site, "origin", "mirror")
        await until_asked(site, 4)
        assert "4 that want a lease" in await carry(site, "mirror")
        said = await carry(site, "origin", "mirror")
        assert "the mirror has a lease; 3 endpoint(s) told" in said
        await site.until_running("kiosk", "1.0", names)

        # The next release is halted while the stick is under way with it.
        await site.publish("kiosk", "2.0", MIB)
        await carry(site, "origin")
        await site.halt("kiosk==2.0", at="origin")
        await carry(site, "mirror")
        await site.until_running("kiosk", "2.0", names)
        said = await carry(site, "origin", "mirror")
        assert "1 were new here" in said
        await site.until_halted(names)
        # What they have done is known at the fleet once the stick has been there again.
        await site.until("their receipts are taken along", lambda: has_receipts(site, 3), STEP_S)
        await carry(site, "origin")
        key = str(site.fleet / "keys" / "operator.key")
        proof = json.loads(await site.firedoor("certificate", "--key", key, "--json"))
        assert (proof["expected"], proof["enforced"]) == (3, 3)

    tell(tmp_path, story)


def test_without_the_origin_s_word_a_stick_s_release_goes_nowhere(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        names = await begin(site, 1)
        await site.publish("kiosk", "1.0", MIB)
        said = await carry(site, "origin", "mirror")
        assert "kiosk 1.0 is not given: waits for a lease" in said
        await until_asked(site, 2)
        await carry(site, "mirror", "origin")
        # What this run of the mirror has asked is gone with it; what its endpoint has asked is not.
        await site.kill("mirror")
        await site.start("mirror")
        await until_asked(site, 2)
        said = await carry(site, "mirror")
        assert "no lease: a stick brought none for what this run of the program has asked" in said
        assert "1 endpoint(s) told" in said
        assert "kiosk 1.0 is not given: waits for a lease" in said
        await carry(site, "origin", "mirror")
        await site.until_running("kiosk", "1.0", names)

    tell(tmp_path, story)


def test_a_bent_stick_costs_a_visit_and_lets_nothing_in(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        names = await begin_asked(site)
        await site.publish("kiosk", "1.0", MIB)
        await carry(site, "mirror", "origin")
        stick = Stick(site.folder / "stick", FleetId((site.folder / "stick" / "fleet").read_text()))
        (asked,) = stick.all_outbound()
        good = stick.inbound(asked.mirror)
        assert good is not None
        assert good.answer is not None
        # Somebody adds a machine to those that the origin's word is for, and bends a piece.
        more = (*good.answer.questions, Question("0" * 32, bytes(32)))
        bent = replace(good.answer, questions=more)
        stick.keep_inbound(asked.mirror, replace(good, answer=bent))
        piece = next((site.folder / "stick" / "pieces").glob("*/*"))
        whole = piece.read_bytes()
        piece.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        said = await carry(site, "mirror")
        assert "what has come for this site is not taken" in said
        assert "wanted the answer to these nonces" in said
        assert "kiosk 1.0 is not whole on the stick" in said
        # The next round mends both.
        await carry(site, "origin", "mirror")
        await site.until_running("kiosk", "1.0", names)

    tell(tmp_path, story)


def test_certificates_are_renewed_by_stick(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        names = ["mirror", *await begin_asked(site)]
        for name in names:
            await site.kill(name)
            # Of seven days, four are over by this machine's clock.
            site.programs[name].prefix += clock_off_by(4)
        await site.start_all(names)
        await site.until("two are due", lambda: wants_certificates(site, 2), STEP_S)
        assert "2 certificate(s)" in await carry(site, "origin", "mirror")
        await site.until("both are renewed", lambda: are_renewed(site, names), STEP_S)

    tell(tmp_path, story)


async def wants_certificates(site: LabSite, count: int) -> bool:
    return f"{count} that want a certificate" in await carry(site, "mirror")


async def has_receipts(site: LabSite, count: int) -> bool:
    return f"{count} receipt(s)" in await carry(site, "mirror")


async def are_renewed(site: LabSite, names: list[str]) -> bool:
    logs = [(site.programs[name].folder / "log").read_text("utf-8") for name in names]
    return all("certificate-renewed" in log for log in logs)

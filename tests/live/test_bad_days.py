"""Bad days: a liar, clocks, a full disk, a mirror that is gone, stolen keys; and an idle one."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import peer_of_certificate
from tests.live.lab import (
    MIB,
    STEP_S,
    LabSite,
    Table,
    clock_off_by,
    product_of,
    received,
    release_of,
    tell,
)

pytestmark = pytest.mark.live

# Slow enough that 8 MiB are still under way when an order comes.
THIN = 300_000

LIAR = Path(__file__).with_name("liar.py")


# --- a liar ------------------------------------------------------------------------------------


def test_a_peer_that_sends_wrong_bytes_is_banned_and_harms_nobody(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin(rate="20mbit")
        liar, *honest = await site.enrol(4, ["kiosk"])
        site.programs[liar].command = (sys.executable, str(LIAR))
        await site.start(liar)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_running("kiosk", "1.0", [liar])
        # It has all, and a line faster than the mirror's: each of the others will ask it.
        await site.start_all(honest)
        statuses = await site.until_running("kiosk", "1.0", honest)
        wanted = (site.folder / "trees" / "kiosk-1.0" / "content.bin").read_bytes()
        for name in honest:
            current = site.folder / name / "roots" / "kiosk" / "current"
            assert (current / "content.bin").read_bytes() == wanted
        logs = [(site.folder / name / "log").read_text() for name in honest]
        assert any("peer-banned" in log for log in logs)
        # Still heard: what it says of orders proves itself.
        ids = {peer["id"] for status in statuses.values() for peer in status["peers"]}
        assert (await site.statuses([liar]))[liar]["id"] in ids

    tell(tmp_path, story)


# --- clocks ------------------------------------------------------------------------------------


def test_a_clock_a_year_off_deafens_nobody_to_a_halt(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk", "manuals"], receive=THIN)
        right, ahead, behind = names
        for name, days in ((ahead, 365), (behind, -365)):
            site.programs[name].prefix += clock_off_by(days)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", [right])
        await site.halt("kiosk==1.0", at="mirror")
        statuses = await site.until_halted(names)
        assert not statuses[ahead]["is_trust_fresh"]
        # Expired metadata starts nothing; a clock that lags is no reason to stay behind.
        await site.publish("manuals", "1.0", MIB // 4)
        later = await site.until_running("manuals", "1.0", [right, behind])
        for status in [*later.values(), (await site.statuses([ahead]))[ahead]]:
            assert product_of(status, "kiosk")["activations"] == 0
        assert received((await site.statuses([ahead]))[ahead]) == 0

    tell(tmp_path, story)


def test_a_certificate_past_half_its_life_renews_itself(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        (name,) = await site.enrol(1, ["kiosk"])
        key = site.programs[name].folder / "state" / "identity.key"
        before = read_key_file(key, str)
        # Of seven days, five are over by this machine's clock.
        site.programs[name].prefix += clock_off_by(5)
        await site.start(name)

        async def is_renewed() -> bool:
            return read_key_file(key, str).certificate != before.certificate

        await site.until("it is renewed", is_renewed, STEP_S)
        assert read_key_file(key, str).secret == before.secret
        peer = peer_of_certificate(read_key_file(key, str).certificate.encode(), Clock().unix())
        assert (peer.id, peer.is_current) == (before.name, True)

    tell(tmp_path, story)


# --- a full disk -------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own of this size at `folder`."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left; the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk_stops_cleanly_obeys_a_halt_and_heals(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        (name,) = names = await site.enrol(1, ["kiosk", "manuals"])
        program = site.programs[name]
        shutil.move(program.folder, kept := tmp_path / "kept")
        with small_disk(program.folder, "6m"):
            shutil.copytree(kept, program.folder, dirs_exist_ok=True)
            await site.start(name)
            await site.publish("kiosk", "1.0", 16 * MIB)
            await site.until_all("the disk is full", names, is_out_of_room)
            filler = fill(program.folder)
            await site.halt("kiosk==1.0", at="mirror")
            # Room for orders is held before anything else can take it.
            statuses = await site.until_halted(names)
            assert product_of(statuses[name], "kiosk")["version"] == ""
            filler.unlink()
            await site.publish("manuals", "1.0", MIB // 4)
            await site.until_running("manuals", "1.0", names)
            await site.kill(name)

    def is_out_of_room(status: Table) -> bool:
        return "the disk is full" in str(product_of(status, "kiosk")["detail"])

    tell(tmp_path, story)


# --- no mirror ---------------------------------------------------------------------------------


def test_a_newcomer_gets_all_from_neighbours_one_of_which_reaches_the_origin(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        origin = site.programs["origin"].address
        first = await site.enrol(1, ["kiosk"], mirrors=[origin])
        [late] = await site.enrol(1, ["kiosk"])
        await site.start_all(first)
        await site.publish("kiosk", "1.0", 4 * MIB)
        await site.until_running("kiosk", "1.0", first)
        await site.kill("mirror")
        await site.start(late)
        status = (await site.until_running("kiosk", "1.0", [late]))[late]
        assert status["bytes"]["mirror"] == 0
        assert status["lease"]["is_live"]

    tell(tmp_path, story)


def test_a_newcomer_whom_nobody_gives_a_lease_knows_all_and_moves_nothing(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk"])
        *first, late = names
        await site.start_all(first)
        await site.publish("kiosk", "1.0", 4 * MIB)
        await site.until_running("kiosk", "1.0", first)
        await site.kill("mirror")
        await site.kill("origin")
        await site.start(late)
        await site.until_all(
            "it waits for a lease",
            [late],
            lambda each: "lease" in product_of(each, "kiosk")["detail"],
        )
        # The others' leases have not run out, but nobody can give theirs away.
        await site.halt("kiosk==1.0", at=first[0])
        status = (await site.until_halted([late]))[late]
        assert release_of(status, "kiosk")["level"] == 4
        assert status["bytes"]["peer"] == 0

    tell(tmp_path, story)


# --- other keys --------------------------------------------------------------------------------


def test_a_fleet_follows_other_keys_and_a_halt_outlives_its_own(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk", "manuals"])
        *first, late = names
        await site.start_all(first)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", first)
        await site.halt("kiosk==2.0", at="mirror")
        await site.until_halted(first)
        for role in ("halt", "releases/main", "beacon", "timestamp", "root"):
            await site.firedoor("keys", "rotate", role, "--fleet", str(site.fleet))
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.publish("manuals", "1.0", MIB // 4)
        # One that never knew the old keys, and one that comes back with what they signed.
        await site.kill(first[0])
        await site.start_all([first[0], late])
        await site.until_running("manuals", "1.0", names)
        statuses = await site.until_halted(names)
        for name in names:
            assert release_of(statuses[name], "kiosk")["level"] == 4
            assert product_of(statuses[name], "kiosk")["version"] == "1.0"
        await site.halt("manuals", at=late)
        await site.until_all("the new key halts", names, lambda each: len(each["orders"]) == 2)

    tell(tmp_path, story)


# --- quiet days --------------------------------------------------------------------------------


def test_an_idle_site_is_quiet(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", names)
        before = {name: cpu_s(site, name) for name in names}
        # Time itself is what is measured here: an endless talk would burn all of it.
        await asyncio.sleep(4)
        for name in names:
            assert cpu_s(site, name) - before[name] < 1.0

    tell(tmp_path, story)


def cpu_s(site: LabSite, name: str) -> float:
    """CPU seconds that a program has used; `ip netns exec` becomes what it runs."""
    process = site.programs[name].process
    assert process is not None
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100

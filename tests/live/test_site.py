"""A site of real processes, each on a machine of its own, found by real mDNS."""

import asyncio
import shutil
import signal
import ssl
from pathlib import Path

import pytest

from firedoor.limits import NEIGHBOURS_DIALLED_MAX
from firedoor.runtime.settings import split_address
from tests.live.lab import (
    LEAK_BYTES_MAX,
    MIB,
    LabSite,
    Table,
    has_recorded,
    product_of,
    received,
    release_of,
    tell,
)

pytestmark = pytest.mark.live

# Slow enough that 8 MiB are still under way when an order comes.
THIN = 300_000

# Slow enough to be caught in mid-transfer, fast enough to see the end of it.
FAIR = 1_500_000


def assert_stopped(status: Table) -> None:
    """The halted release has neither arrived nor started at this endpoint."""
    release, product = release_of(status, "kiosk"), product_of(status, "kiosk")
    assert release["pieces_have"] < max(1, release["pieces_total"])
    assert status["covered"]["bytes"] <= LEAK_BYTES_MAX
    assert (product["version"], product["activations"]) == ("", 0)


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


def test_no_endpoint_keeps_more_neighbours_than_it_may_dial(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(14, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_running("kiosk", "1.0", names)

        async def have_few() -> bool:
            each = [status["peers"] for status in (await site.statuses(names)).values()]
            # A connection between two is counted at both.
            count: int = sum(peer["role"] == "agent" for peers in each for peer in peers)
            return 0 < count <= 2 * NEIGHBOURS_DIALLED_MAX * len(names)

        # Each knows all others by now; one that is declined is counted for a moment.
        await site.until("each has few neighbours", have_few, 20)

    tell(tmp_path, story)


def test_a_halt_at_the_mirror_stops_a_transfer_and_nothing_else(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(4, ["kiosk", "manuals"], receive=THIN)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", names)
        await site.halt("kiosk==1.0", at="mirror")
        await site.until_halted([*names, "mirror", "origin"])
        await site.publish("manuals", "1.0", MIB // 2)
        later = await site.until_running("manuals", "1.0", names)
        for name in names:
            assert_stopped(later[name])

    tell(tmp_path, story)


def test_a_halt_at_one_endpoint_reaches_all_without_the_mirror(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(4, ["kiosk"], receive=THIN)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", names)
        await site.kill("mirror")
        await site.halt("kiosk==1.0", at=names[0])
        statuses = await site.until_halted(names)
        for name in names:
            assert_stopped(statuses[name])

    tell(tmp_path, story)


def test_a_site_finishes_after_its_mirror_crashed(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk"], receive=FAIR)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", names)
        await site.kill("mirror")
        await site.start("mirror")
        await site.until_running("kiosk", "1.0", names)

    tell(tmp_path, story)


def test_an_endpoint_that_crashed_keeps_what_it_has_and_finishes(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        payload = 8 * MIB
        await site.begin()
        names = await site.enrol(3, ["kiosk"], receive=FAIR)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", payload)
        await site.until_all("the first has a third", names[:1], has_a_third)
        await site.kill(names[0])
        await site.start(names[0])
        statuses = await site.until_running("kiosk", "1.0", names)
        assert 0 < received(statuses[names[0]]) < 0.75 * payload

    def has_a_third(status: Table) -> bool:
        release = release_of(status, "kiosk")
        return bool(release) and 3 * release["pieces_have"] > release["pieces_total"] > 0

    tell(tmp_path, story)


def test_a_machine_without_a_certificate_gets_no_byte(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(1, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB)
        statuses = await site.until_running("kiosk", "1.0", names)
        manifest = release_of(statuses[names[0]], "kiosk")["manifest"]
        for path in ("status", "metadata/root.json", f"releases/{manifest}/payload", "peer"):
            for name in ("origin", "mirror", *names):
                assert await stranger_reads(site.programs[name].address, f"/v1/{path}") == b""

    tell(tmp_path, story)


async def stranger_reads(address: str, path: str) -> bytes:
    """Everything that a TLS client without a certificate is answered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, port = split_address(address)
    answer = b""
    async with asyncio.timeout(10):
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        except ssl.SSLError:
            return answer
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            while chunk := await reader.read(4096):
                answer += chunk
        except (ssl.SSLError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
    return answer


def test_an_endpoint_that_was_off_during_a_halt_takes_nothing_of_it(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk", "manuals"], receive=THIN)
        *on, off = names
        await site.start_all(on)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.publish("manuals", "1.0", MIB // 4)
        await site.until_moving("kiosk", on)
        await site.halt("kiosk==1.0", at="mirror")
        await site.until_halted(on)
        await site.start(off)
        # Manuals in place show that it would have begun with the kiosk too by now.
        status = (await site.until_running("manuals", "1.0", [off]))[off]
        assert has_recorded(status)
        assert_stopped(status)
        assert release_of(status, "kiosk")["pieces_have"] == 0
        assert status["covered"]["bytes"] == 0
        assert received(status) < MIB // 2

    tell(tmp_path, story)


def test_a_state_folder_from_before_a_halt_brings_nothing_back(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(3, ["kiosk", "manuals"], receive=THIN)
        await site.start_all(names)
        await site.publish("kiosk", "1.0", 8 * MIB)
        await site.until_moving("kiosk", names)
        state, kept = site.programs[names[0]].folder / "state", tmp_path / "kept"
        await site.kill(names[0], signal.SIGTERM)
        shutil.copytree(state, kept)
        await site.start(names[0])
        await site.halt("kiosk==1.0", at="mirror")
        await site.until_halted(names)
        await site.kill(names[0], signal.SIGTERM)
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        await site.start(names[0])
        restored = (await site.until_halted(names[:1]))[names[0]]
        assert received(restored) == 0
        await site.publish("manuals", "1.0", MIB // 4)
        later = (await site.until_running("manuals", "1.0", names[:1]))[names[0]]
        assert_stopped(later)
        assert later["covered"]["bytes"] == 0
        assert received(later) < MIB // 2

    tell(tmp_path, story)

"""The brake's other acts with real processes: proof, drills, sticks, bans, revocations, passes."""

import asyncio
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from firedoor.cli.orders.order_file import OrderFile
from firedoor.errors import Unavailable
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import (
    Announce,
    Beacon,
    Beat,
    Hello,
    Message,
    OrderIds,
    Orders,
    OrdersDone,
    Recorded,
    decode_message,
    encode_message,
)
from tests.live.lab import MIB, STEP_S, LabSite, product_of, release_of, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


def keys(site: LabSite, role: str, *numbers: int) -> list[str]:
    words: list[str] = []
    for number in numbers:
        words += ["--key", str(site.fleet / "keys" / f"{role}-{number}.key")]
    return words


def test_a_halt_has_a_certificate_that_verifies_offline_and_a_hook_that_ran(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        told = tmp_path / "told"
        hook = f"sh -c 'cat > {told}'"
        [first] = await site.enrol(1, ["kiosk"], hooks={"on_order": [hook]})
        others = await site.enrol(2, ["kiosk"])
        await site.start_all([first, *others[:1]])
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [first, others[0]])
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.until_running("kiosk", "2.0", [first, others[0]])
        words = ["kiosk==2.0", "--level", "6", "--reason", "crashes", *keys(site, "halt", 1)]
        await site.firedoor("halt", *words, "--to", site.programs["mirror"].address)
        await site.until_running("kiosk", "1.0", [first, others[0]])
        proof, operator = tmp_path / "proof", str(site.fleet / "keys" / "operator.key")
        said = await site.firedoor(
            "certificate", "--key", operator, "--out", str(proof), "--wait", "3", "--json"
        )
        table = json.loads(said)
        counts = (table["expected"], table["enforced"], table["recorded"], table["unknown"])
        assert counts == (3, 2, 2, 1)
        assert {row["had"] for row in table["endpoints"]} == {"rolled back", ""}
        root = str(site.fleet / "root.json")
        again = await site.firedoor("certificate", "verify", str(proof), "--root", root, "--json")
        assert json.loads(again) == table
        assert json.loads(told.read_text("utf-8"))["scope"] == "kiosk==2.0"

    tell(tmp_path, story)


def test_a_machine_with_nothing_to_go_back_to_says_that_the_halted_still_runs(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [only] = await site.enrol(1, ["kiosk"])
        await site.start(only)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [only])
        words = ["kiosk==1.0", "--level", "6", "--reason", "crashes", *keys(site, "halt", 1)]
        await site.firedoor("halt", *words, "--to", site.programs["mirror"].address)
        operator = str(site.fleet / "keys" / "operator.key")
        said = await site.firedoor("certificate", "--key", operator, "--wait", "4", "--json")
        table = json.loads(said)
        assert (table["recorded"], table["enforced"]) == (1, 0)
        assert [row["had"] for row in table["endpoints"]] == ["still runs"]

    tell(tmp_path, story)


def test_a_drill_is_recorded_by_all_and_stops_nothing(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk"])
        await site.start_all(names)
        await site.firedoor("drill", "everything", "--level", "4", *keys(site, "halt", 1),
                            "--to", site.programs["mirror"].address)  # fmt: skip
        await site.until_halted(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", names)
        operator = str(site.fleet / "keys" / "operator.key")
        said = json.loads(await site.firedoor("certificate", "--key", operator, "--json"))
        assert (said["kind"], said["enforced"]) == ("drill", 2)

    tell(tmp_path, story)


def test_orders_travel_on_a_stick_to_a_site_that_no_network_reaches(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", names)
        # The branch is cut off: its mirror is gone, and the halt is known at the origin alone.
        await site.kill("mirror")
        await site.halt("kiosk", at="origin")
        stick, key = tmp_path / "stick", keys(site, "halt", 1)
        origin = site.programs["origin"].address
        await site.firedoor("order", "export", str(stick), *key, "--to", origin)
        branch = site.programs[names[0]].address
        # Somebody's hand on the stick: the orders on it are taken, what was added is not.
        found = decode(OrderFile, stick.read_bytes(), what="stick", limit=MIB)
        payload = HaltPayload(1, bytes(16), "everything", 4, 0, "by nobody")
        forged = seal("halt", payload, fleet=FleetId(found.fleet), keys={"0f" * 32: bytes(32)})[1]
        bent = replace(found, records=(forged, *found.records))
        (tmp_path / "bent").write_bytes(encode(bent))
        with pytest.raises(Unavailable, match="were refused"):
            await site.firedoor("order", "import", str(tmp_path / "bent"), *key, "--to", branch)
        await site.until_halted(names)
        await site.firedoor("order", "import", str(stick), *key, "--to", branch)
        statuses = await site.until_halted(names)
        assert all(release_of(each, "kiosk")["level"] == 4 for each in statuses.values())

    tell(tmp_path, story)


def test_a_banned_machine_is_refused_by_all_until_the_ban_is_lifted(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        statuses = await site.until_running("kiosk", "1.0", names)
        good, bad = names
        peer, mirror = str(statuses[bad]["id"]), site.programs["mirror"].address
        resume = keys(site, "resume", 1, 2)
        said = await site.firedoor("ban", peer, "--reason", "stolen", *resume, "--to", mirror)
        order = said.split("signed ")[1].split()[0]
        await site.until_all(
            "nobody talks to it", [good, "mirror"],
            lambda each: peer not in {one["id"] for one in each["peers"]},
        )  # fmt: skip
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.until_running("kiosk", "2.0", [good])
        assert product_of((await site.statuses([bad]))[bad], "kiosk")["version"] == "1.0"
        await site.firedoor("resume", order, "--reason", "found", *resume, "--to", mirror)
        await site.until_running("kiosk", "2.0", [bad])

    tell(tmp_path, story)


def test_a_fleet_comes_back_from_a_stolen_halt_key_by_a_revocation(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk", "manuals"])
        await site.start_all(names)
        mirror = site.programs["mirror"].address
        thief = ["--reason", "ha", *keys(site, "halt", 2), "--to", mirror]
        await site.firedoor("halt", "everything", "--confirm", "everything", *thief)
        await site.until_halted(names)
        fix = ["--reason", "the fix", *keys(site, "promote", 1, 2), "--to", mirror]
        await site.publish("manuals", "1.0", MIB // 4)
        await site.firedoor("critical-fix", "manuals==1.0", *fix)
        await site.until_running("manuals", "1.0", names)
        await site.publish("kiosk", "1.0", MIB // 4)
        stolen = read_key_file(site.fleet / "keys" / "halt-2.key", str).keyid
        words = [stolen, "--reason", "stolen", *keys(site, "resume", 1, 2), "--to", mirror]
        await site.firedoor("revoke", *words)
        await site.until_running("kiosk", "1.0", names)

    tell(tmp_path, story)


def test_a_halt_of_a_ring_stops_its_machines_and_no_others(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        canary = await site.enrol(1, ["kiosk"], ring="canary")
        broad = await site.enrol(1, ["kiosk"])
        await site.start_all([*canary, *broad])
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [*canary, *broad])
        await site.halt("ring:canary", at="mirror")
        await site.until_halted([*canary, *broad])
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.until_running("kiosk", "2.0", broad)
        statuses = await site.until_running("kiosk", "1.0", canary)
        assert release_of(statuses[canary[0]], "kiosk")["level"] == 4

    tell(tmp_path, story)


def test_a_controllers_key_halts_the_release_that_names_it_and_no_other(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(2, ["kiosk"])
        await site.start_all(names)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", names)
        robot, operator = str(tmp_path / "robot.key"), str(site.fleet / "keys" / "operator.key")
        public = await site.firedoor("keys", "controller", robot, "--key", operator)
        await site.publish("kiosk", "2.0", MIB // 4, "--controller", public.strip())
        await site.until_running("kiosk", "2.0", names)
        mirror = site.programs["mirror"].address
        words = ("--level", "6", "--reason", "three of ten crash", "--key", robot, "--to", mirror)
        with pytest.raises(Unavailable, match="valid signature"):
            await site.firedoor("halt", "kiosk==1.0", *words)
        told = await site.firedoor("halt", "kiosk==2.0", *words)
        assert "no lease waits for it" in told
        await site.until_running("kiosk", "1.0", names)
        said = await site.firedoor("certificate", "--key", operator, "--wait", "4", "--json")
        assert (json.loads(said)["enforced"], json.loads(said)["expected"]) == (2, 2)

    tell(tmp_path, story)


def test_a_halt_reaches_by_multicast_a_machine_whose_connections_are_dead(tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("needs the program `nft` (package nftables)")

    async def story(site: LabSite) -> None:
        await site.begin()
        near, far = await site.enrol(2, ["kiosk"])
        await site.start_all([near, far])
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [near, far])
        prefix = site.programs[far].prefix
        rules = "add table ip f; add chain ip f i { type filter hook input priority 0; };"
        rules += " add rule ip f i meta l4proto tcp drop"
        await asyncio.to_thread(subprocess.run, [*prefix, "nft", rules], check=True)
        await site.halt("kiosk==1.0", at=near)
        log = site.programs[far].folder / "log"

        async def has_recorded() -> bool:
            return "halt-enforced" in log.read_text("utf-8")

        await site.until("the far machine has it by multicast", has_recorded)

    tell(tmp_path, story)


def test_an_order_stirs_no_announcement_of_releases(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        await site.publish("kiosk", "1.0", MIB // 4)
        key = read_key_file(site.fleet / "keys" / "halt-1.key", str)
        client = PeerClient(credentials_of(key), Clock(), Budget(0))
        try:
            heard = await heard_of([halt_by(key, number) for number in range(20)], client, site)
        finally:
            await client.close()
        # Each endpoint would look at its metadata for it, while its site records.
        assert not any(isinstance(each, Announce) for each in heard)

    tell(tmp_path, story)


def halt_by(key: KeyFile, number: int) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "kiosk==1.0", 4, 0, "bad")
    return seal("halt", payload, fleet=FleetId(key.fleet), keys={key.keyid: key.signing_seed})


async def heard_of(
    orders: list[tuple[bytes, bytes]], client: PeerClient, site: LabSite
) -> list[Message]:
    """What the origin says to whoever hands it one order after the other, until all are named."""
    host, port = split_address(site.programs["origin"].address)
    _, socket = await client.dial(host, port, role=Role.MIRROR)
    waiting, is_greeted = list(orders), False
    heard: list[Message] = []
    opening: list[Message] = [Hello(bytes(32), 0), OrdersDone(), OrderIds(())]
    for each in opening:
        socket.send(encode_message(each))
    try:
        async with asyncio.timeout(STEP_S):
            async for frame in socket.frames():
                message = decode_message(frame)
                assert message is not None
                if is_greeted and not isinstance(message, Beat):
                    heard.append(message)
                if isinstance(message, Beacon) and all(one in message.record for one, _ in orders):
                    return heard
                # What comes last of the greeting, and then of each order.
                if waiting and isinstance(message, Recorded if is_greeted else Announce):
                    is_greeted = socket.send(encode_message(Orders((waiting.pop(0)[1],))))
    finally:
        socket.close()
    raise AssertionError("the origin hung up")

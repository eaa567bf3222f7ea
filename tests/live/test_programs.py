"""Programs as a person runs them: a fetch without an install, an enrolment far away, the demo."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from firedoor.errors import Denied, Unavailable
from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from tests.live.lab import ENROL_PORT, MIB, LabSite, Table, product_of, tell

pytestmark = pytest.mark.live

DEMO = (sys.executable, "-m", "firedoor.cli.main", "demo")
DEMO_SPAN_S = 180.0


def test_a_release_is_fetched_verified_and_shared_without_an_install(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        first, second = await site.enrol(2, [])
        await site.publish("kiosk", "1.0", 2 * MIB)
        await site.publish("kiosk", "2.0", 2 * MIB)
        out = {name: site.folder / name / "out" for name in (first, second)}
        lingering = await fetch(site, first, "kiosk", out[first], "--linger", "60")
        await site.until("the first is whole", lambda: exists(out[first]), 30.0)
        assert await (await fetch(site, second, "kiosk==1.0", out[second])).wait() == 0
        for name, version in ((first, "2.0"), (second, "1.0")):
            wanted = site.folder / "trees" / f"kiosk-{version}" / "content.bin"
            assert (out[name] / "content.bin").read_bytes() == wanted.read_bytes()
        lingering.terminate()
        assert await lingering.wait() == 0
        await site.halt("kiosk==2.0", at="mirror")
        for release, sentence in (
            ("kiosk==2.0", "is halted at level 4"),
            ("kiosk==9.9", "no such release"),
            ("nothing", "no such release"),
        ):
            refused = await fetch(site, second, release, site.folder / "refused")
            assert await refused.wait() == 1
            assert sentence in (site.folder / second / "log").read_text().splitlines()[-1]
        assert not (site.folder / "refused").exists()

    async def exists(path: Path) -> bool:
        return path.exists()

    tell(tmp_path, story)


def test_an_armed_release_switches_by_its_machines_own_word_and_a_halt_disarms_it(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [only] = await site.enrol(1, ["kiosk"], switch="when-told")
        await site.start(only)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_all("1.0 is armed", [only], is_armed)
        assert await switch(site, only) == "kiosk: 1.0\n"
        await site.until_running("kiosk", "1.0", [only])
        await site.publish("kiosk", "2.0", MIB // 4)
        await site.until_all("2.0 is armed", [only], is_armed)
        with pytest.raises(Denied, match="this machine itself"):
            await switch_as_operator(site, only)
        await site.halt("kiosk==2.0", at="mirror")
        await site.until_all("2.0 is disarmed", [only], lambda each: not is_armed(each))
        assert await switch(site, only) == "nothing is armed\n"
        await site.until_running("kiosk", "1.0", [only])

    tell(tmp_path, story)


def is_armed(status: Table) -> bool:
    return "is armed" in product_of(status, "kiosk")["detail"]


async def switch(site: LabSite, name: str) -> str:
    """What `firedoor-agent switch` says on one machine of the lab."""
    program = site.programs[name]
    settings = str(program.folder / "settings.toml")
    process = await asyncio.create_subprocess_exec(
        *(*program.prefix, sys.executable, "-m", "agent", "--config", settings, "switch"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def switch_as_operator(site: LabSite, name: str) -> None:
    key = read_key_file(site.fleet / "keys" / "operator.key", str)
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    host, port = site.programs[name].address.rsplit(":", 1)
    try:
        await client.post(host, int(port), "/v1/switch", b"[]", role=Role.AGENT, limit=MIB)
    finally:
        await client.close()


async def fetch(
    site: LabSite, name: str, release: str, out: Path, *more: str
) -> asyncio.subprocess.Process:
    """`firedoor-agent fetch` on one machine of the lab."""
    program = site.programs[name]
    settings = str(program.folder / "settings.toml")
    words = ("--config", settings, "fetch", release, "--out", str(out), *more)
    with (program.folder / "log").open("ab") as log:
        program.process = await asyncio.create_subprocess_exec(
            *program.prefix, sys.executable, "-m", "agent", *words, stdout=log, stderr=log
        )
    return program.process


def test_a_machine_enrols_through_its_sites_mirror(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        mirror = site.programs["mirror"]
        settings = mirror.folder / "settings.toml"
        address = mirror.address.partition(":")[0]
        text = settings.read_text()
        settings.write_text(f'enrol_listen = "{address}:{ENROL_PORT}"\n{text}')
        await site.kill("mirror", signal.SIGTERM)
        await site.start("mirror")
        site.enrol_at(f"{address}:{ENROL_PORT}")
        (name,) = await site.enrol(1, ["kiosk"])
        await site.start(name)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [name])
        # A token is good for one machine.
        with pytest.raises(Unavailable, match="token"):
            await enrol_twice(site)

    async def enrol_twice(site: LabSite) -> None:
        said = await site.firedoor(
            *("token", "--fleet", str(site.fleet), "--role", "agent", "--site", "branch"),
            *("--enrol", site.programs["origin"].options["enrol"]),
        )
        for folder in ("one", "two"):
            await site.firedoor("enrol", said.strip(), "--state", str(site.folder / folder))

    tell(tmp_path, story)


def test_the_demo_keeps_every_promise(tmp_path: Path) -> None:
    before = leftovers()
    findings = tmp_path / "findings.json"
    done = subprocess.run(
        [*DEMO, "--endpoints", "4", "--json", str(findings)],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEMO_SPAN_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    table = json.loads(findings.read_text())
    assert table["ok"] is True
    assert table["broken"] == []
    assert table["endpoints"] == 4
    assert table["halt"]["activations_after_receipt"] == 0
    assert set(table["halt"]["recorded_ms"]) == {"p50", "p99", "max"}
    assert table["late_joiner"] == {"bytes_of_halted": 0}
    assert table["rolled_back"] >= 2
    assert leftovers() == before


def test_the_demo_leaves_nothing_behind_when_it_is_interrupted_twice() -> None:
    before = leftovers()
    with subprocess.Popen(
        [*DEMO, "--endpoints", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Publish kiosk 1.0" in line:
                break
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGTERM)
        rest = demo.stdout.read()
        assert demo.wait(60) == 130
    assert "Traceback" not in rest
    assert leftovers() == before


def leftovers() -> set[str]:
    """Folders of demos, and processes that run out of them."""
    found = {path.name for path in Path(tempfile.gettempdir()).glob("firedoor-demo-*")}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"firedoor-demo-" in command:
                found.add(entry.name)
    return found

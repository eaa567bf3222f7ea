"""What is published after a halt lowers nothing: not the same bytes again, and not the fix.

One key reaches levels 5 to 7 for a release where every release with a higher counter has its
content. That is decided when the halt is recorded, and kept: through a restart, and for the guard.
"""

import asyncio
import dataclasses
import shutil
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from agent.guard import guard
from firedoor.cli.demo.local_fleet import toml, version_of
from firedoor.dice import Dice
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.halt.scope import Subject
from firedoor.identity import FleetId, PeerId, Role
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.trust.keys import Authority, RoleKeys
from firedoor.units import Instant, Span
from tests.live.lab import MIB, LabSite, Table, product_of, release_of, tell
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import COUNTS, NOW, Bench, opened, release

START = Instant(0.0)
FLEET = FleetId("0a" * 16)
SEEDS = {name: sha256(name.encode()).digest() for name in ("halt-1", "halt-2", "resume", "beacon")}
KEYIDS = {name: sha256(seed).hexdigest() for name, seed in SEEDS.items()}

# Well below what hides a hang, well above what an endpoint takes.
SOON_S = 12.0


def role(*names: str) -> RoleKeys:
    return RoleKeys(
        1, {KEYIDS[name]: SigningKey(SEEDS[name]).verify_key.encode() for name in names}
    )


AUTHORITY = Authority(
    FLEET,
    1,
    {"halt": role("halt-1", "halt-2"), "resume": role("resume"), "beacon": role("beacon")},
    is_fresh=True,
)


# --- one node, in memory ------------------------------------------------------------------------


def app(counter: int, content: str = "") -> Subject:
    """Release `counter` of the product; `content`: of which bytes, if not of its own."""
    raw = content or f"content of {counter}"
    return Subject("app", str(counter), sha256(raw.encode()).digest(), counter=counter)


def twin(counter: int, of: int) -> Subject:
    """Release `counter` with the bytes of release `of`."""
    return app(counter, f"content of {of}")


def node_of(*known: Subject) -> Node:
    settings = NodeSettings(PeerId("2" * 32), Role.AGENT, "branch", 7443)
    node = Node(settings, Dice(1), START)
    node.trust(AUTHORITY, START)
    learn(node, *known)
    return node


def learn(node: Node, *subjects: Subject) -> None:
    for each in subjects:
        node.learn({sha256(f"{each}".encode()).hexdigest(): each}, START)


def record(node: Node, scope: str, level: int, *names: str) -> None:
    """A halt comes, by one key if none is named, and is on this node's disk."""
    payload = HaltPayload(1, bytes(16), scope, level, 0, "bad")
    keys = {KEYIDS[name]: SEEDS[name] for name in names or ("halt-1",)}
    order, data = seal("halt", payload, fleet=FLEET, keys=keys)
    node.submit(data, None, START)
    node.recorded(order)


def levels(node: Node, *subjects: Subject) -> list[int]:
    return [node._gates.brake.level(each) for each in subjects]


@pytest.mark.parametrize("level", [5, 6, 7])
def test_the_same_bytes_published_again_lower_no_halt(level: int) -> None:
    node = node_of(app(1), app(2))
    record(node, "app==2", level)
    learn(node, twin(3, of=2))
    assert levels(node, app(1), app(2), twin(3, of=2)) == [0, level, level]


@pytest.mark.parametrize("level", [5, 6, 7])
def test_the_same_bytes_published_before_a_halt_are_no_newer_release(level: int) -> None:
    node = node_of(app(1), app(2), twin(3, of=2), twin(4, of=2))
    record(node, "app==2", level)
    assert levels(node, app(1), app(2), twin(3, of=2), twin(4, of=2)) == [0, level, level, level]


@pytest.mark.parametrize("level", [5, 6, 7])
def test_a_fix_after_a_halt_does_not_lower_it(level: int) -> None:
    node = node_of(app(1), app(2))
    record(node, "app==2", level)
    learn(node, app(3))
    assert levels(node, app(1), app(2), app(3)) == [0, level, 0]


def test_the_same_bytes_and_then_a_fix_do_not_lower_it() -> None:
    node = node_of(app(1), app(2))
    record(node, "app==2", 7)
    learn(node, twin(3, of=2), app(4))
    assert levels(node, app(2), twin(3, of=2), app(4)) == [7, 7, 0]


def test_a_digest_by_one_key_is_lowered_by_no_later_release() -> None:
    node = node_of(app(1), app(2))
    record(node, f"digest:{app(2).content.hex()}", 7)
    learn(node, twin(3, of=2), app(4))
    assert levels(node, app(1), app(2), twin(3, of=2), app(4)) == [0, 7, 7, 0]


def test_a_range_by_one_key_reaches_the_newest_of_its_day_and_makes_no_older_one_so() -> None:
    node = node_of(app(1), app(2), app(3))
    record(node, "app#1..3", 7)
    assert levels(node, app(1), app(2), app(3)) == [4, 4, 7]
    learn(node, app(4))
    assert levels(node, app(1), app(2), app(3), app(4)) == [4, 4, 7, 0]


def test_a_range_by_one_key_with_the_newest_bytes_under_two_versions_reaches_both() -> None:
    node = node_of(app(1), app(2), twin(3, of=2))
    record(node, "app#1..3", 7)
    assert levels(node, app(1), app(2), twin(3, of=2)) == [4, 7, 7]


def test_a_publication_raises_no_halt_of_an_older_release() -> None:
    # A thief of one halt key and a careless build job together walk nobody down.
    node = node_of(app(1), app(2))
    record(node, "app==1", 7)
    learn(node, twin(3, of=2))
    assert levels(node, app(1), app(2), twin(3, of=2)) == [4, 0, 0]


# --- one endpoint, its disk and its guard -------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    fleet = tmp_path / "made"
    make_fleet(fleet, FleetPlan("test", "127.0.0.1:7443", (), COUNTS, None), NOW)
    made = opened(fleet, tmp_path / "origin")
    yield made
    made.origin.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nobody's turn to leave a release comes, until this is undone: the power goes before it."""
    monkeypatch.setattr("agent.decisions.install.ROLL_BACKS_PER_S", 1e-9)
    monkeypatch.setattr("agent.decisions.install.ROLL_BACK_SPREAD", Span(1e9))
    return monkeypatch


def installed(bench: Bench, folder: Path, *versions: str) -> Endpoint:
    """An endpoint on which these versions have run, the last one now."""
    endpoint = Endpoint(bench, folder)
    for version in versions:
        endpoint.publish(version)

        async def story(one: Endpoint, wanted: str = version) -> None:
            await one.until_runs(wanted)

        endpoint.run(story)
    return endpoint


def publish(bench: Bench, endpoint: Endpoint, version: str, raw: bytes) -> None:
    """Publish these bytes under a version whose counter is its first number."""
    made = release(bench.store, version, raw)
    manifest = dataclasses.replace(made, counter=int(version.partition(".")[0]))
    bench.publish(manifest)
    endpoint._published.append((raw, manifest))


# What comes after the halt of 2.0.
LATER = {"the same bytes": b"content of 2.0", "a fix": b"content of 3.0"}


async def halted_at_7(one: Endpoint) -> None:
    await one.until_runs("2.0")
    await one.halt(f"{PRODUCT}==2.0", 7)


def without_a_lease(endpoint: Endpoint) -> Endpoint:
    """In its next lives it starts nothing new, so the fix does not hide what runs."""
    endpoint._is_leased = False
    return endpoint


async def settled(one: Endpoint) -> None:
    await one.until(lambda: one.installer._is_settled)


def level_of_what_runs(one: Endpoint) -> int:
    subject = one.host.node.releases[one.installer.health().manifest]
    return one.host.node._gates.brake.level(subject)


@pytest.mark.slow
@pytest.mark.parametrize("raw", LATER.values(), ids=LATER)
def test_a_restart_after_a_later_publication_finds_the_level_that_was_decided(
    bench: Bench, tmp_path: Path, patient: pytest.MonkeyPatch, raw: bytes
) -> None:
    endpoint = installed(bench, tmp_path / "endpoint", "1.0", "2.0")
    endpoint.run(halted_at_7)
    publish(bench, endpoint, "3.0", raw)
    found: list[int] = []

    async def story(one: Endpoint) -> None:
        await settled(one)
        assert one.state[0] == "2.0"
        found.append(level_of_what_runs(one))

    without_a_lease(endpoint).run(story)
    assert found == [7]


@pytest.mark.slow
def test_an_endpoint_with_the_bytes_that_came_twice_leaves_them_after_a_restart(
    bench: Bench, tmp_path: Path, patient: pytest.MonkeyPatch
) -> None:
    endpoint = installed(bench, tmp_path / "endpoint", "1.0", "2.0")
    endpoint.run(halted_at_7)
    publish(bench, endpoint, "3.0", b"content of 2.0")
    patient.undo()

    async def story(one: Endpoint) -> None:
        await settled(one)
        async with asyncio.timeout(3):
            await one.until_runs("1.0")

    endpoint.run(story)


@pytest.mark.slow
@pytest.mark.parametrize("raw", LATER.values(), ids=LATER)
def test_the_guard_steps_back_from_a_halted_release_whatever_was_published_later(
    bench: Bench, tmp_path: Path, patient: pytest.MonkeyPatch, raw: bytes
) -> None:
    home = tmp_path / "endpoint"
    endpoint = installed(bench, home, "1.0", "2.0")
    endpoint.run(halted_at_7)
    publish(bench, endpoint, "3.0", raw)
    without_a_lease(endpoint).run(settled)
    assert (home / "root" / "current").readlink().name.startswith("2.0-")
    guard.main(["--config", str(settings_of_guard(bench, home))])
    assert (home / "root" / "current").readlink().name.startswith("1.0-")


@pytest.mark.slow
def test_the_guard_steps_back_from_halted_bytes_that_run_under_another_version(
    bench: Bench, tmp_path: Path, patient: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "endpoint"
    endpoint = installed(bench, home, "1.0")
    publish(bench, endpoint, "2.0", b"content of 2.0")
    publish(bench, endpoint, "3.0", b"content of 2.0")

    async def story(one: Endpoint) -> None:
        await one.until_runs("3.0")
        await one.halt(f"{PRODUCT}==2.0", 7)

    endpoint.run(story)
    guard.main(["--config", str(settings_of_guard(bench, home))])
    assert (home / "root" / "current").readlink().name.startswith("1.0-")


def settings_of_guard(bench: Bench, home: Path) -> Path:
    """An agent's settings with one state folder, as the guard trusts them."""
    shutil.copy(home / "journal.db", home / "state" / "journal.db")
    settings = {
        "fleet_root": str(bench.fleet / "root.json"),
        "state": str(home / "state"),
        "site": "branch",
        "products": {PRODUCT: {"root": str(home / "root")}},
    }
    (home / "agent.toml").write_text(toml(settings), "utf-8")
    for path in (home, home / "state", home / "root"):
        path.chmod(0o755)
    return home / "agent.toml"


# --- real programs ------------------------------------------------------------------------------


def keys(site: LabSite, *numbers: int) -> list[str]:
    words: list[str] = []
    for number in numbers:
        words += ["--key", str(site.fleet / "keys" / f"halt-{number}.key")]
    return words


async def halt_at_7(site: LabSite, scope: str, *numbers: int) -> str:
    """Halt at level 7 by these keys, handed to the origin; what the command says."""
    words = ["--level", "7", "--reason", "it boot-loops", *keys(site, *numbers)]
    return await site.firedoor("halt", scope, *words, "--to", site.programs["origin"].address)


async def publish_again(site: LabSite, product: str, version: str, of: str) -> str:
    """Publish the bytes of version `of` under another name; what the command says."""
    tree = site.folder / "trees" / f"{product}-{of}"
    return await site.firedoor("publish", product, version, str(tree), "--fleet", str(site.fleet))


async def one_endpoint(site: LabSite, *, version: str = "newest") -> str:
    """An origin and an endpoint right below it, which runs kiosk 2.0 and has 1.0 behind it.

    `version`: what its settings name from then on; it is not started again yet.
    """
    await site.begin_origin()
    [name] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["origin"].address])
    await site.start(name)
    for each in ("1.0", "2.0"):
        await site.publish("kiosk", each, MIB // 16)
        await site.until_running("kiosk", each, [name])
    await site.until_all("it rests", [name], lambda each: rests(each, "kiosk"))
    await site.kill(name)
    change_product(site, name, version=version)
    return name


def rests(status: Table, product: str) -> bool:
    return bool(product_of(status, product)["phase"] == "idle")


def change_product(site: LabSite, name: str, **changes: Any) -> None:
    """Write other settings of the endpoint's product kiosk."""
    program = site.programs[name]
    path = program.folder / "settings.toml"
    lines = path.read_text("utf-8").splitlines()
    at = lines.index("[products.kiosk]") + 1
    lines[at:at] = toml(changes).splitlines()
    path.write_text("\n".join(lines) + "\n", "utf-8")


# An agent whose turn to leave a release never comes, as if the power went before it.
PATIENT = """
import sys
import agent.__main__, agent.decisions.install as install
install.ROLL_BACKS_PER_S, install.ROLL_BACK_SPREAD = 1e-9, 1e9
sys.exit(agent.__main__.main())
"""

# What its settings name, and what is published after the halt of 2.0.
MACHINES = {"a machine that takes the newest": ("newest", "again"), "a pinned one": ("2.0", "fix")}


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize(("version", "later"), MACHINES.values(), ids=MACHINES)
def test_a_machine_that_went_down_before_its_turn_is_taken_back_at_boot(
    tmp_path: Path, version: str, later: str
) -> None:
    async def story(site: LabSite) -> None:
        name = await one_endpoint(site, version=version)
        site.programs[name].command = (sys.executable, "-c", PATIENT)
        await site.start(name)
        await halt_at_7(site, "kiosk==2.0", 1)
        await site.until_halted([name])
        if later == "again":
            await publish_again(site, "kiosk", "3.0", of="2.0")
        else:
            await site.publish("kiosk", "3.0", MIB // 16)
        await site.until_all("3.0 is known", [name], is_3_known)
        await site.kill(name)
        assert current(site, name) == "2.0"
        said = await at_boot(site, name)
        assert current(site, name) == "1.0", said

    tell(tmp_path, story)


def is_3_known(status: Table) -> bool:
    return bool(release_of(status, "kiosk")["version"] == "3.0")


def current(site: LabSite, name: str) -> str:
    """The version that a machine would start now."""
    root = site.programs[name].folder / "roots" / "kiosk"
    return (root / "current").readlink().name.partition("-")[0]


async def at_boot(site: LabSite, name: str) -> str:
    """Run the boot guard of a machine; what it says."""
    settings = str(site.programs[name].folder / "settings.toml")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "guard", "--config", settings, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


@pytest.mark.live
@pytest.mark.slow
def test_a_pinned_machine_leaves_bytes_that_were_published_twice_before_their_halt(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        name = await one_endpoint(site, version="2.0")
        await publish_again(site, "kiosk", "2.1", of="2.0")
        await site.start(name)
        await site.until_all("2.1 is known", [name], is_2_1_known)
        await halt_at_7(site, "kiosk==2.0", 1)

        async def has_left() -> bool:
            return version_of(await site.status(name), "kiosk") == "1.0"

        await site.until("it has left 2.0 for 1.0", has_left, SOON_S)

    def is_2_1_known(status: Table) -> bool:
        return bool(release_of(status, "kiosk")["version"] == "2.1")

    tell(tmp_path, story)


@pytest.mark.live
@pytest.mark.slow
def test_a_pinned_machine_leaves_a_halted_release_or_says_why_the_halt_is_lower_there(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        name = await one_endpoint(site, version="2.0")
        await site.publish("kiosk", "3.0", MIB // 16)
        await site.start(name)
        await site.until_all("3.0 is known", [name], is_3_known)
        await halt_at_7(site, "kiosk==2.0", 1)
        await site.until_halted([name])

        async def is_said() -> bool:
            row = product_of((await site.statuses([name]))[name], "kiosk")
            # Both figures: what was signed, and what is in effect here.
            return row["version"] == "1.0" or {"4", "7"} <= set(str(row["detail"]))

        await site.until("status says that level 7 is level 4 here", is_said, SOON_S)

    tell(tmp_path, story)


@pytest.mark.live
@pytest.mark.slow
def test_publish_says_that_the_bytes_are_halted(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        await site.publish("kiosk", "1.0", 1 << 10)
        await site.publish("kiosk", "2.0", 1 << 10)
        await halt_at_7(site, "kiosk==2.0", 1)
        assert "halted" in await publish_again(site, "kiosk", "2.1", of="2.0")

    tell(tmp_path, story)


@pytest.mark.live
@pytest.mark.slow
def test_halt_says_for_which_release_one_key_is_too_few(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        await site.publish("kiosk", "1.0", 1 << 10)
        await site.publish("kiosk", "2.0", 1 << 10)
        await publish_again(site, "kiosk", "2.1", of="2.0")
        # Every newer release has its bytes: nothing is lower than it was signed.
        assert "at 4" not in await halt_at_7(site, "kiosk==2.0", 1)
        assert "1.0" in without_first_line(await halt_at_7(site, "kiosk==1.0", 1))

    def without_first_line(text: str) -> str:
        """What it says beside the order's own line."""
        lines = [line for line in text.splitlines()[1:] if "recorded by" not in line]
        return "\n".join(lines)

    tell(tmp_path, story)

"""A release's check owns nothing: not the agent's state, not a process after its end, no switch.

Whoever signs a release chooses its check, and it runs on every endpoint. The script here does what
a thief of a publisher's key would have it do, and exits as it is told to.
"""

import asyncio
import dataclasses
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import uvloop

from agent import __main__ as program
from agent.checks.command import LocalChecks
from firedoor.cli.demo.local_fleet import toml
from firedoor.runtime.settings import AgentSettings
from firedoor.units import Span
from tests.live.lab import STEP_S, LabSite, Table, product_of, tell

# What a check that has ended may leave behind is gone within this.
GONE_S = 3.0

# For so long nothing may come back after a roll-back; the thief needs a tenth of a second.
QUIET_S = 4.0

# Users that nothing else runs as on a machine that tests: whatever the first one runs is ended.
USER = "games"
USER_ID = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can pass through, as they can on a real machine."""
    made = Path(tempfile.mkdtemp(prefix="firedoor-check-"))
    made.chmod(0o755)
    yield made
    # A daemon may still write here where none should be: it is ended after this.
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def loot(folder: Path) -> Path:
    """Where a thief of any user may write."""
    made = folder / "loot"
    made.mkdir()
    made.chmod(0o777)
    return made


@pytest.fixture
def token() -> Iterator[str]:
    """A word by which what a check has left is known; all of it is ended at last."""
    word = f"left-{token_hex(8)}"
    yield word
    for pid in processes(word):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes(word: str) -> list[int]:
    """The processes whose command line has this word, whoever's they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


async def are_gone(word: str) -> bool:
    """Whether no process with this word is left after a moment."""
    deadline = time.monotonic() + GONE_S
    while processes(word) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return not processes(word)


def isolated() -> dict[str, Any]:
    """The settings by which checks have a user of their own, where there are such settings."""
    names = {each.name for each in dataclasses.fields(AgentSettings)}
    return {"check_user": USER} if "check_user" in names else {}


def daemon(word: str, what: str) -> str:
    """A line of a check's script that leaves a process; `what` it does is bash.

    It closes whatever it has inherited, or the agent would wait for its end.
    """
    close = 'for n in {3..254}; do eval "exec $n>&-"; done'
    return f"setsid bash -c '{close}; {what}' {word} > /dev/null 2>&1 < /dev/null &"


# --- the check's own runner ---------------------------------------------------------------------


def script(folder: Path, *lines: str) -> str:
    """A script in a release's folder; the command that runs it."""
    (folder / "attack.sh").write_text("\n".join(lines) + "\n", "utf-8")
    return "sh attack.sh"


@pytest.mark.parametrize("code", [0, 1])
def test_no_process_outlives_its_check(tmp_path: Path, token: str, code: int) -> None:
    left = daemon(token, "while sleep 1; do :; done")
    command = script(tmp_path, left, f"exit {code}")

    async def story() -> bool:
        result = await LocalChecks(None).run(command, folder=tmp_path, span=Span(10.0))
        assert result.is_well is (code == 0)
        return await are_gone(token)

    assert asyncio.run(story())


def test_a_check_inherits_no_descriptor_of_the_program(tmp_path: Path) -> None:
    # The programs run on this loop, whose child processes are not those of asyncio.
    command = script(tmp_path, "ls -l /proc/$$/fd > found")
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner, socket.create_server(("127.0.0.1", 0)):
        runner.run(LocalChecks(None).run(command, folder=tmp_path, span=Span(5.0)))
    rows = [line.split() for line in (tmp_path / "found").read_text("utf-8").splitlines()[1:]]
    numbers = {int(row[8]): " ".join(row[10:]) for row in rows}
    # The shell keeps the script itself open, and its output while a command has another.
    own = {numbers[2], next(what for what in numbers.values() if what.endswith("attack.sh"))}
    theirs = {number: what for number, what in numbers.items() if number > 2 and what not in own}
    assert theirs == {}


# A pipe that somebody else holds may outlive the loop; that is not what is asked here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_check_that_has_ended_well_is_well_though_something_holds_its_output(
    tmp_path: Path, token: str
) -> None:
    command = script(tmp_path, f"setsid sh -c 'while sleep 1; do :; done' {token} &", "exit 0")
    begun = time.monotonic()
    result = asyncio.run(LocalChecks(None).run(command, folder=tmp_path, span=Span(8.0)))
    gc.collect()
    assert result.is_well, result.detail
    assert time.monotonic() - begun < 4.0


# --- real programs ------------------------------------------------------------------------------


async def endpoint(site: LabSite, products: tuple[str, ...] = ("kiosk",), **more: Any) -> str:
    """An endpoint right below the origin, not started yet; `more`: other settings."""
    [name] = await site.enrol(1, products, mirrors=[site.programs["origin"].address], **more)
    return name


async def publish(site: LabSite, version: str, *lines: str, check: str = "sh attack.sh") -> None:
    """Publish a version of the kiosk with the script `lines`, and `check` if there is one."""
    tree = site.folder / "trees" / version
    tree.mkdir(parents=True)
    (tree / "version").write_text(version, "utf-8")
    script(tree, *lines)
    words = ["--check", check] if check else []
    await site.firedoor("publish", "kiosk", version, str(tree), "--fleet", str(site.fleet), *words)


async def until_decided(site: LabSite, name: str) -> Table:
    """The product's row once the release was tried, or refused with a reason."""

    def is_decided(status: Table) -> bool:
        row = product_of(status, "kiosk")
        return bool(row["phase"] == "idle" and (row["version"] or row["detail"]))

    seen = await site.until_all("the release is tried or refused", [name], is_decided)
    return product_of(seen[name], "kiosk")


def steal(state: Path, loot: Path) -> list[str]:
    """What a thief in a check does to the agent's state."""
    return [
        f"cp '{state}/identity.key' '{loot}/'",
        f"rm -f '{state}/orders.log'",
        "exit 0",
    ]


def stolen(state: Path, loot: Path) -> list[str]:
    """What it got."""
    found = ["identity.key"] if (loot / "identity.key").exists() else []
    log = state / "orders.log"
    return found if log.exists() and log.stat().st_size else [*found, "orders.log"]


def as_root(site: LabSite, name: str) -> None:
    """The agent runs as root, as the tests do."""


def as_its_own_user(site: LabSite, name: str) -> None:
    """The agent runs as a user of its own, as its unit has it."""
    chosen = site.programs[name]
    chosen.prefix += ("setpriv", "--reuid", str(USER_ID), "--regid", str(USER_ID), "--clear-groups")
    for path in (chosen.folder, *chosen.folder.rglob("*")):
        os.chown(path, USER_ID, USER_ID, follow_symlinks=False)


def by_the_release(site: LabSite, name: str) -> str:
    """The release brings its check."""
    return "sh attack.sh"


def by_the_administrator(site: LabSite, name: str) -> str:
    """The administrator's own check runs a file of the release."""
    chosen = site.programs[name]
    path = chosen.folder / "settings.toml"
    lines = path.read_text("utf-8").splitlines()
    current = chosen.folder / "roots" / "kiosk" / "current"
    at = lines.index("[products.kiosk]") + 1
    lines[at:at] = toml({"check": [f"sh {current}/attack.sh"]}).splitlines()
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return ""


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("become", [as_root, as_its_own_user])
@pytest.mark.parametrize("whose", [by_the_release, by_the_administrator])
def test_a_check_reads_and_deletes_nothing_of_the_agents_state(
    folder: Path,
    loot: Path,
    become: Callable[[LabSite, str], None],
    whose: Callable[[LabSite, str], str],
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        settings = isolated() if become is as_root else {}
        name = await endpoint(site, ("kiosk", "manuals"), **settings)
        state = site.programs[name].folder / "state"
        check = whose(site, name)
        become(site, name)
        await site.start(name)
        await site.halt("manuals", at="origin")
        await site.until_halted([name])
        await publish(site, "1.0", *steal(state, loot), check=check)
        row = await until_decided(site, name)
        assert stolen(state, loot) == [], row["detail"]

    tell(folder, story)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 1])
def test_no_daemon_of_a_check_is_left_whatever_its_exit_code(
    folder: Path, token: str, code: int
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        name = await endpoint(site, **isolated())
        await site.start(name)
        left = daemon(token, "while sleep 1; do :; done")
        await publish(site, "1.0", left, f"exit {code}")
        row = await until_decided(site, name)
        assert row["version"] == "1.0"
        assert await are_gone(token)

    tell(folder, story)


def put_back(root: Path, loot: Path, token: str) -> list[str]:
    """A check that leaves a daemon, which puts the version back whenever it is left for another."""
    is_there = f'[ "$(readlink {root}/current)" = "versions/$1" ]'
    # What is put aside as evidence is brought back from a copy.
    copy = f"[ -e {root}/versions/$1 ] || cp -a {loot}/copy {root}/versions/$1"
    again = f"{copy}; ln -sfn versions/$1 {root}/current"
    return [
        'me="$(basename "$FIREDOOR_VERSION_FOLDER")"',
        f"[ -e {loot}/copy ] || cp -a . {loot}/copy",
        daemon(f'{token} "$me"', f"while sleep 0.2; do {is_there} || {{ {again}; }}; done"),
        "exit 0",
    ]


@pytest.mark.live
@pytest.mark.slow
def test_a_halted_version_is_not_put_back_by_what_its_check_has_left(
    folder: Path, loot: Path, token: str
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        name = await endpoint(site, **isolated())
        root = site.programs[name].folder / "roots" / "kiosk"
        await site.start(name)
        await publish(site, "1.0", check="")
        await site.until_running("kiosk", "1.0", [name])
        await publish(site, "2.0", *put_back(root, loot, token))
        await site.until_all("2.0 is well", [name], is_well)
        await halt_at_6(site, "kiosk==2.0")
        await site.until_all("it has left 2.0", [name], has_rolled_back)
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            assert (root / "current" / "version").read_text("utf-8") == "1.0"
            await asyncio.sleep(0.05)

    def is_well(status: Table) -> bool:
        row = product_of(status, "kiosk")
        return bool(row["version"] == "2.0" and row["phase"] == "idle")

    def has_rolled_back(status: Table) -> bool:
        return bool(product_of(status, "kiosk")["rolled_back"])

    tell(folder, story)


async def halt_at_6(site: LabSite, scope: str) -> None:
    key = str(site.fleet / "keys" / "halt-1.key")
    words = ["--level", "6", "--reason", "bad", "--key", key]
    await site.firedoor("halt", scope, *words, "--to", site.programs["origin"].address)


@pytest.mark.live
@pytest.mark.slow
def test_without_a_user_for_checks_a_release_that_brings_one_is_held_back_and_that_is_said(
    folder: Path, loot: Path
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        name = await endpoint(site)
        await site.start(name)
        await publish(site, "1.0", f"touch {loot}/ran")
        row = await until_decided(site, name)
        assert not (loot / "ran").exists()
        assert row["version"] == ""
        assert "check" in str(row["detail"])
        operator = str(site.fleet / "keys" / "operator.key")

        async def is_told() -> bool:
            return "no check user" in await site.firedoor("status", "--key", operator)

        await site.until("the operator's status says so", is_told, STEP_S)
        # One that brings no check is held back by nothing.
        await publish(site, "2.0", check="")
        await site.until_running("kiosk", "2.0", [name])

    tell(folder, story)


# --- what an administrator is told --------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="about an agent that is root")
def test_the_settings_of_a_root_agent_without_a_user_for_checks_are_said_before_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.json").write_text("{}", "utf-8")
    settings = {
        "fleet_root": str(tmp_path / "root.json"),
        "state": str(tmp_path / "state"),
        "site": "branch",
        "products": {"kiosk": {"root": str(tmp_path / "kiosk")}},
    }
    path = tmp_path / "agent.toml"
    path.write_text(toml(settings), "utf-8")
    monkeypatch.setattr(sys, "argv", ["firedoor-agent", "--config", str(path), "--check-config"])
    program.main()
    said = capsys.readouterr()
    assert "check_user" in said.out + said.err

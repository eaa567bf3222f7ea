"""The page "Two machines in ten minutes" of the README, run as it stands there, on two machines."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.live.lab import Lab

pytestmark = pytest.mark.live

README = Path(__file__).resolve().parents[2] / "README.md"
STEP = re.compile(
    r"^\*\*(\d)\. On the (origin|endpoint)(.*?)(?=^\*\*\d\. |^## |\Z)", re.MULTILINE | re.DOTALL
)
BLOCK = re.compile(r"(?ms)^```(sh|toml)\n(.*?)^```")
DAEMONS = re.compile(r"^firedoor-(mirror|agent) --config \S+$")

# One command, or what follows from it at the endpoint.
SPAN_S = 60.0


@dataclass
class Machine:
    """One of the two: a folder, a namespace, and what runs there for good."""

    folder: Path
    prefix: tuple[str, ...]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, command: str) -> str:
        """One command of the page; its output."""
        done = subprocess.run(
            [*self.prefix, "bash", "-ec", command],
            cwd=self.folder,
            env=environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=SPAN_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str) -> None:
        """A program of the page that goes on."""
        with (self.folder / "log").open("ab") as log:
            self.running.append(
                subprocess.Popen(
                    [*self.prefix, *command.split()],
                    cwd=self.folder,
                    env=environment(),
                    stdout=log,
                    stderr=log,
                )
            )

    def stop(self) -> None:
        """End what was started here."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def environment() -> dict[str, str]:
    """A shell in which the programs are installed."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def commands(block: str) -> list[str]:
    """The commands of a shell block, with their continued lines."""
    return [line for line in block.replace("\\\n", " ").split("\n") if line.strip()]


async def until(what: str, holds: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(SPAN_S):
            while not holds():
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {SPAN_S:.0f} s: {what}")


def is_up(origin: Machine) -> bool:
    return "mirror-started" in (origin.folder / "log").read_text()


def greeting(endpoint: Machine) -> str:
    path = endpoint.folder / "hello" / "current" / "greeting"
    return path.read_text().strip() if path.exists() else ""


async def follow(origin: Machine, endpoint: Machine, address: str) -> None:
    """Do what the page says, step by step, and see what it says that one sees."""
    machines = {"origin": origin, "endpoint": endpoint}
    token = order = ""
    seen = set()
    for number, where, text in STEP.findall(README.read_text("utf-8")):
        machine, said = machines[where], ""
        seen.add(number)
        for language, block in BLOCK.findall(text):
            filled = block.replace("origin.example", address)
            if language == "toml":
                name = "mirror.toml" if where == "origin" else "agent.toml"
                (machine.folder / name).write_text(filled)
                continue
            for command in commands(filled):
                if DAEMONS.fullmatch(command):
                    machine.start(command)
                    await until("the origin is up", lambda: is_up(origin))
                else:
                    typed = re.sub(r"\bTOKEN\b", token, command)
                    said += machine.run(re.sub(r"\bID\b", order, typed))
        if number == "3":
            token = said.strip()
        elif number == "6":
            await until("the endpoint has the first release", lambda: greeting(endpoint) == "one")
        elif number == "7":
            order = re.search(r"signed ([0-9a-f]{64})", said)[1]  # type: ignore[index]  # it printed one
            assert "recorded by the first peer" in said
            assert "committed by the origin" in said
            assert "HALTED hello at level 4: screens go blue" in said
            assert "halted: hello" in endpoint.run("firedoor-agent --config agent.toml status")
            assert greeting(endpoint) == "one"
        elif number == "8":
            await until("the second release follows", lambda: greeting(endpoint) == "two")
    assert seen == set("12345678")


def test_the_page_two_machines_in_ten_minutes_works_as_it_stands(tmp_path: Path) -> None:
    with Lab() as lab:
        machines = []
        for name in ("origin", "endpoint"):
            (tmp_path / name).mkdir()
            prefix, address = lab.host(name)
            machines.append((Machine(tmp_path / name, prefix), address))
        (origin, address), (endpoint, _) = machines
        try:
            asyncio.run(follow(origin, endpoint, address))
        except BaseException:
            for machine in (origin, endpoint):
                log = machine.folder / "log"
                print(log.read_text()[-3000:] if log.exists() else "nothing ran")
            raise
        finally:
            for machine in (endpoint, origin):
                machine.stop()

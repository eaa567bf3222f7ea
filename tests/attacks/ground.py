"""A fleet of real processes on loopback for one module of attacks, and commands that may not hang.

Every command has a time limit and a limit of memory: what hangs or swallows a file whole fails its
own test and harms nothing else.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from firedoor.cli.demo.local_fleet import free_port, toml
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of, enrolment_server_context, server_context
from tests.unit.origin_bench import COUNTS, NOW

# Far above what a command takes, and short enough for a hang to be seen.
COMMAND_S = 15.0
START_S = 15.0

# No honest command needs as much; a file that is read whole before it is measured does.
MEMORY_BYTES = 2 << 30

# Of a file that is nothing but a hole: it takes no room on the disk.
HUGE = 8 << 30

Table = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that a person sees."""
        return self.out + self.err


def run(*command: object, stdin: str = "", **more: str) -> Said:
    """Run a program to its end; a hang fails the test. `more`: of its environment."""
    process = subprocess.Popen(
        [*map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **more},
        preexec_fn=_bound,  # noqa: PLW1509  # one call of setrlimit, no locks
    )
    try:
        out, err = process.communicate(stdin.encode(), COMMAND_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail(f"{' '.join(map(str, command[1:6]))} … hung for {COMMAND_S:.0f} s")
    # Raw: a test must see what a terminal would.
    return Said(process.returncode, out.decode("latin-1"), err.decode("latin-1"))


def firedoor(*words: object, stdin: str = "", **more: str) -> Said:
    """One `firedoor` command."""
    return run(sys.executable, "-m", "firedoor.cli.main", *words, stdin=stdin, **more)


def assert_one_sentence(said: Said) -> None:
    """A command that refuses says so in one line, and not by a traceback."""
    assert "Traceback" not in said.text
    assert said.code in {1, 2}
    assert said.err.startswith("firedoor: ")
    assert said.err.count("\n") == 1


def assert_harmless(text: str) -> None:
    """No text may move a terminal's cursor, change its colours or turn its direction."""
    shown = text.encode("latin-1").decode("utf-8", "replace")
    wrong = {char for char in shown if ord(char) < 32 and char != "\n"}
    wrong |= {char for char in shown if char in "\x7f\x85\x9b\N{RIGHT-TO-LEFT OVERRIDE}"}
    assert not wrong


def make_huge(path: Path) -> None:
    """A file that says it has HUGE bytes."""
    with path.open("wb") as file:
        file.truncate(HUGE)


@dataclass
class Program:
    """One daemon: its module (`mirror` or `agent`), settings, and where its log goes."""

    module: str
    folder: Path
    settings: Table
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.folder / "settings.toml"

    @property
    def log(self) -> str:
        """All that it has committed."""
        return (self.folder / "log").read_text("utf-8", errors="replace")

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.settings["listen"])

    def start(self, umask: int = 0o022) -> None:
        """Start it and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(toml(self.settings), "utf-8")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=umask,
                preexec_fn=_bound,  # noqa: PLW1509  # as in `run`
            )
        host, _, port = self.address.rpartition(":")
        until(f"{self.folder.name} listens", lambda: _listens(host, int(port)), START_S)

    def stop(self, number: int = signal.SIGTERM, span_s: float = 5.0) -> bool:
        """Ask it to end; whether it did so in time. What does not is killed."""
        if self.process is None:
            return True
        self.process.send_signal(number)
        try:
            self.process.wait(span_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        finally:
            self.process = None
        return True

    def status(self) -> Table:
        """What an agent says of itself; empty while it does not answer."""
        said = run(sys.executable, "-m", "agent", "--config", self.config, "status", "--json")
        return dict(json.loads(said.out)) if said.code == 0 else {}


@dataclass
class Ground:
    """One fleet under a folder, its origin running on loopback."""

    folder: Path
    programs: list[Program] = field(default_factory=list)

    def begin(self, umask: int) -> None:
        """Make the fleet and start its origin."""
        port, enrol = free_port(), free_port()
        self.enrol = f"127.0.0.1:{enrol}"
        plan = FleetPlan("test", f"127.0.0.1:{port}", (), COUNTS, None)
        make_fleet(self.fleet, plan, NOW)
        settings = {
            "fleet_root": str(self.fleet / "root.json"),
            "state": str(self.folder / "origin" / "state"),
            "listen": f"127.0.0.1:{port}",
            "site": "headquarters",
            "origin_folder": str(self.fleet / "origin"),
            "enrol_listen": self.enrol,
        }
        self.origin = self.program("mirror", "origin", settings)
        self.origin.start(umask)

    @property
    def fleet(self) -> Path:
        """The folder of the fleet."""
        return self.folder / "fleet"

    def key(self, name: str) -> Path:
        """An offline key file."""
        return self.fleet / "keys" / f"{name}.key"

    def program(self, module: str, name: str, settings: Table) -> Program:
        """One more daemon, which ends with this ground."""
        made = Program(module, self.folder / name, settings)
        self.programs.append(made)
        return made

    def token(self, role: str, site: str = "branch") -> str:
        """A token for one machine."""
        words = ("--role", role, "--site", site, "--enrol", self.enrol)
        said = firedoor("token", "--fleet", self.fleet, *words)
        assert said.code == 0, said.err
        return said.out.strip()

    def enrolled(self, module: str, name: str, **more: Any) -> Program:
        """A daemon that is enrolled and not started; `more`: settings."""
        state = self.folder / name / "state"
        role = "agent" if module == "agent" else "mirror"
        said = firedoor("enrol", self.token(role), "--state", state)
        assert said.code == 0, said.err
        settings = {
            "fleet_root": str(state / "root.json"),
            "state": str(state),
            "listen": f"127.0.0.1:{free_port()}",
            "site": "branch",
        }
        return self.program(module, name, settings | more)

    def agent(self, name: str, root: Path, product: str, **more: Any) -> Program:
        """An enrolled agent that follows one product, at `root`, and is not started."""
        products = {product: {"root": str(root), "settle_s": 0.0}}
        return self.enrolled(
            "agent", name, mirrors=[self.origin.address], products=products, **more
        )

    def publish(self, product: str, version: str, *words: str) -> None:
        """Publish a small release; twice is once."""
        tree = self.folder / "trees" / f"{product}-{version}"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "content").write_text(f"content of {product} {version}", "utf-8")
        said = firedoor("publish", product, version, tree, "--fleet", self.fleet, *words)
        assert said.code == 0, said.err

    def halt(self, scope: str, level: int, reason: str, to: str = "") -> str:
        """Halt `scope` by one key; the order's id."""
        at = ("--to", to or self.origin.address, "--wait", 5)
        words = ("--level", level, "--reason", reason, "--key", self.key("halt-1"), *at)
        said = firedoor("halt", scope, *words)
        assert said.code == 0, said.err
        return said.out.split("signed ")[1][:64]

    def close(self) -> None:
        """End every program that was started here."""
        for program in self.programs:
            program.stop()


@contextmanager
def ground(folder: Path, umask: int = 0o022) -> Iterator[Ground]:
    """A fleet while entered."""
    made = Ground(folder)
    try:
        made.begin(umask)
        yield made
    finally:
        made.close()


def until(what: str, holds: Callable[[], object], span_s: float = COMMAND_S) -> None:
    """Wait until `holds()`; the test fails when it does not in time."""
    end = time.monotonic() + span_s
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {span_s:.0f} s")


# --- a peer that lies ----------------------------------------------------------------------------


class Liar:
    """A peer with the certificate of a mirror that answers what a test has put into `answers`."""

    def __init__(self, key_file: Path, answers: dict[str, bytes], *, is_enrolment: bool) -> None:
        credentials = credentials_of(read_key_file(key_file, str))
        make = enrolment_server_context if is_enrolment else server_context
        self.answers = answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = answers.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"{}")))
                self.end_headers()
                self.wfile.write(body or b"{}")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = make(credentials).wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients go
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def liar(
    key_file: Path, answers: dict[str, bytes], *, is_enrolment: bool = False
) -> Iterator[Liar]:
    """Such a peer while entered."""
    made = Liar(key_file, answers, is_enrolment=is_enrolment)
    try:
        yield made
    finally:
        made.close()


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False

"""A whole fleet on one machine, as separate processes: for the demo, and for tests in namespaces.

Every step is a command that a person could type; the only thing done for them is the typing.
Addresses and a command prefix (`ip netns exec …`) come from the caller; the default is loopback.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firedoor.errors import FiredoorError, Unavailable
from firedoor.identity import RING_DEFAULT, Role
from firedoor.limits import STATUS_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address

# One command, enrolment included, on a busy machine with cold imports.
COMMAND_SPAN_S = 60.0

# Programs that start at once share two cores; more would only slow each other's imports.
STARTS_AT_ONCE = 3


@dataclass(slots=True)
class Program:
    """One process of the site. `command`: what runs it instead of the role's own program.

    `code`: a folder with other code than this program's, that of an earlier version.
    """

    name: str
    role: Role
    address: str
    folder: Path
    prefix: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    code: Path | None = None
    process: asyncio.subprocess.Process | None = None


class Site:
    """An origin, mirrors and endpoints under one folder."""

    def __init__(self, folder: Path, *, mdns: Sequence[str] = ("127.0.0.1",)) -> None:
        self.folder = folder
        self.fleet = folder / "fleet"
        self.mdns = list(mdns)
        self.programs: dict[str, Program] = {}
        self._client: PeerClient | None = None
        self._enrol = ""  # Where enrolments are taken.
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    # --- commands ------------------------------------------------------------------------------

    async def firedoor(
        self, *words: str, prefix: Sequence[str] = (), code: Path | None = None
    ) -> str:
        """Run one `firedoor` command; its standard output. `code`: as of `Program`.

        Raises:
            Unavailable: it failed; the reason is the last line that it wrote to stderr.
        """
        command = [*prefix, sys.executable, "-m", "firedoor.cli.main", *words]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Where `python -m` looks for code first.
            cwd=code,
        )
        async with asyncio.timeout(COMMAND_SPAN_S):
            out, err = await process.communicate()
        if process.returncode != 0:
            lines = err.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise Unavailable(f"firedoor {' '.join(words[:2])}", why=lines[-1])
        return out.decode()

    async def init(
        self,
        origin: str,
        enrol: str,
        *more: str,
        prefix: Sequence[str] = (),
        code: Path | None = None,
    ) -> Program:
        """Make the fleet and its origin's settings; `origin` and `enrol` are HOST:PORT.

        `more`: other options of `firedoor init`; `code`: as of `Program`.
        """
        self._enrol = enrol
        words = ["init", str(self.fleet), "--origin", origin, "--no-passphrase", *more]
        for each in self.mdns:
            words += ["--mdns", each]
        await self.firedoor(*words, code=code)
        program = Program(
            "origin", Role.MIRROR, origin, self.folder / "origin", tuple(prefix), {"enrol": enrol}
        )
        program.folder.mkdir(parents=True)
        settings = {
            "fleet_root": str(self.fleet / "root.json"),
            "state": str(program.folder / "state"),
            "listen": origin,
            "site": "headquarters",
            "origin_folder": str(self.fleet / "origin"),
            "enrol_listen": enrol,
            "mdns": [],
        }
        (program.folder / "settings.toml").write_text(toml(settings), "utf-8")
        self.programs["origin"] = program
        return program

    def enrol_at(self, address: str) -> None:
        """Take enrolments at another listener from now on."""
        self._enrol = address

    async def add_all(
        self, programs: Sequence[Program], *, site: str = "branch", ring: str = RING_DEFAULT
    ) -> None:
        """Enrol several mirrors or agents of one role and write their settings."""
        said = await self.firedoor(
            *("token", "--fleet", str(self.fleet), "--role", programs[0].role.value),
            *("--site", site, "--ring", ring),
            *("--enrol", self._enrol, "--count", str(len(programs))),
        )
        pairs = zip(programs, said.split(), strict=True)
        await asyncio.gather(*(self._enrol_one(each, token, site) for each, token in pairs))

    async def add(self, program: Program, *, site: str = "branch") -> None:
        """Enrol one more mirror or agent and write its settings."""
        await self.add_all([program], site=site)

    async def _enrol_one(self, program: Program, token: str, site: str) -> None:
        state = program.folder / "state"
        async with self._starts:
            await self.firedoor(
                *("enrol", token, "--state", str(state)), prefix=program.prefix, code=program.code
            )
        settings = {
            "fleet_root": str(state / "root.json"),
            "state": str(state),
            "listen": program.address,
            "site": site,
            "mdns": self.mdns,
        }
        (program.folder / "settings.toml").write_text(toml(settings | program.options), "utf-8")
        self.programs[program.name] = program

    # --- processes -----------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Start one program and wait until it answers."""
        program = self.programs[name]
        module = "agent" if program.role is Role.AGENT else "mirror"
        command = program.command or (sys.executable, "-m", module)
        settings = program.folder / "settings.toml"
        log = (program.folder / "log").open("ab")
        async with self._starts:
            program.process = await asyncio.create_subprocess_exec(
                *program.prefix, *command, "--config", str(settings),
                stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
                cwd=program.code,
            )  # fmt: skip
            log.close()
            await self.until(f"{name} answers", lambda: self._answers(name))

    async def _answers(self, name: str) -> bool:
        process = self.programs[name].process
        if process is None or process.returncode is not None:
            tail = (self.programs[name].folder / "log").read_text("utf-8")[-400:]
            raise Unavailable(name, why=f"it ended: {tail}")
        return await self.status(name) is not None

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one program that this site started, and wait for its end."""
        process = self.programs[name].process
        if process is not None and process.returncode is None:
            process.send_signal(number)
            await process.wait()

    async def close(self) -> None:
        """End every process that this site started."""
        names = list(self.programs)
        for name in names:
            process = self.programs[name].process
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for name in names:
            process = self.programs[name].process
            if process is None:
                continue
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                await self.kill(name)
        if self._client is not None:
            await self._client.close()

    # --- looking -------------------------------------------------------------------------------

    async def status(self, name: str) -> dict[str, Any] | None:
        """A program's status as the operator sees it; None while it does not answer."""
        if self._client is None:
            key = read_key_file(self.fleet / "keys" / "operator.key", str)
            self._client = PeerClient(credentials_of(key), Clock(), Budget(0))
        program = self.programs[name]
        host, port = split_address(program.address)
        try:
            body = await self._client.get(
                host, port, "/v1/status", role=program.role, limit=STATUS_BYTES_MAX
            )
        except FiredoorError:
            return None
        table: dict[str, Any] = json.loads(body)
        return table

    async def statuses(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The status of each program that answers."""
        answers = await asyncio.gather(*(self.status(name) for name in names))
        pairs = zip(names, answers, strict=True)
        return {name: answer for name, answer in pairs if answer is not None}

    async def until(self, what: str, holds: Callable[[], Any], span_s: float = 30.0) -> None:
        """Wait until `holds()`, awaited, is true.

        Raises:
            Unavailable: it is not, after `span_s`.
        """
        try:
            async with asyncio.timeout(span_s):
                while not await holds():
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise Unavailable(what, why=f"not within {span_s:.0f} s") from error


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def toml(table: dict[str, Any]) -> str:
    """A settings table as TOML: plain values first, then sub-tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        if _is_table(value):
            lines += _sub_table(key, value)
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _sub_table(name: str, table: dict[str, Any]) -> list[str]:
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not _is_table(value)]
    lines = [f"[{name}]", *plain] if plain else []
    for key, value in table.items():
        if _is_table(value):
            lines += _sub_table(f"{name}.{key}", value)
    return lines


def version_of(status: dict[str, Any] | None, product: str) -> str:
    """The active version of a product in an agent's status; empty when there is none."""
    rows = (status or {}).get("products", [])
    return next((str(row["version"]) for row in rows if row["product"] == product), "")

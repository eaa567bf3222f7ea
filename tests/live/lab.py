"""Machines on one cable: network namespaces around a bridge, and a fleet whose programs live there.

Nothing of the real machine is touched: the bridge sits in a namespace of its own, and the test's
thread steps into the operator's namespace while the lab is open. Closing it deletes all of it.
"""

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import pytest

from firedoor.cli.demo.local_fleet import Program, Site, version_of
from firedoor.errors import Unavailable
from firedoor.identity import RING_DEFAULT, Role

PORT = 7443
ENROL_PORT = 7444
NETWORK = "10.77.1"
MIB = 1 << 20

# What a shaped line lets through at once, and how long a packet may wait before it.
QUEUE = ("burst", "64k", "latency", "100ms")

# One step of a story; a passing one takes a few seconds.
STEP_S = 45.0

# A receiver may still get what was in the kernel's queues of its connections when it was cut.
LEAK_BYTES_MAX = 256 << 10

_LOG_TAIL = 3000
_CLONE_NEWNET = 0x40000000

Table = dict[str, Any]


class Lab:
    """Namespaces, each with one veth to a common bridge; while entered."""

    def __init__(self) -> None:
        self._tag = f"firedoor-{os.getpid()}"
        self._switch = f"{self._tag}-switch"
        self._hosts = 0
        self._endpoints = 0
        self._stack = ExitStack()

    def number(self) -> int:
        """Of the next endpoint, whatever its fleet."""
        self._endpoints += 1
        return self._endpoints

    def __enter__(self) -> "Lab":
        """Make the switch and the operator's place, and step into it; skip where that cannot be."""
        _need_root_and_tools()
        with ExitStack() as made:
            self._stack = made
            self._make_switch()
            prefix, _ = self.host("operator")
            self._step_into(prefix[-1])
            self._stack = made.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Step back and delete every namespace, with whatever still runs in it."""
        self._stack.close()

    def host(
        self, name: str, *, rate: str = "", queue: Sequence[str] = QUEUE
    ) -> tuple[tuple[str, ...], str]:
        """One more machine; the command prefix that runs there and its address.

        `rate`: what its line carries each way, as tc spells it, such as `10mbit`; `queue`: what
        waits before it, as tc's tbf spells it.
        """
        self._hosts += 1
        space, port = f"{self._tag}-{name}", f"port{self._hosts}"
        address = f"{NETWORK}.{self._hosts}"
        self._make_space(space)
        _run("ip", "-n", self._switch, "link", "add", port, "type", "veth",
             "peer", "name", "eth0", "netns", space)  # fmt: skip
        _run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "route", "add", "224.0.0.0/4", "dev", "eth0")
        if rate:
            shape = ("root", "tbf", "rate", rate, *queue)
            _run("tc", "-n", space, "qdisc", "add", "dev", "eth0", *shape)
            _run("tc", "-n", self._switch, "qdisc", "add", "dev", port, *shape)
        return ("ip", "netns", "exec", space), address

    def _make_switch(self) -> None:
        try:
            self._make_space(self._switch)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"live tests need network namespaces; ip said: {error.stderr.strip()}")
        # Snooping would hold multicast back until a querier asks; this cable has none.
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge",
             "mcast_snooping", "0", "forward_delay", "0")  # fmt: skip
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")

    def _make_space(self, space: str) -> None:
        _run("ip", "netns", "add", space)
        self._stack.callback(_delete_space, space)

    def _step_into(self, space: str) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._stack.callback(os.close, home)
        there = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
        try:
            _set_namespace(there)
        finally:
            os.close(there)
        self._stack.callback(_set_namespace, home)


class LabSite(Site):
    """A fleet whose programs each live on a machine of a lab. `founding`: options of its init."""

    founding: Sequence[str] = ()

    def __init__(self, folder: Path, lab: Lab) -> None:
        super().__init__(folder, mdns=())
        self._lab = lab
        self.endpoints: list[str] = []

    # --- setting up ----------------------------------------------------------------------------

    async def begin(self, *, rate: str = "") -> None:
        """Start the origin and the site's mirror; `rate` is what the mirror's line carries."""
        await self.begin_origin()
        upstream = [self.programs["origin"].address]
        await self.add(self.program("mirror", Role.MIRROR, {"upstream": upstream}, rate=rate))
        await self.start("mirror")

    async def begin_origin(self, *, rate: str = "") -> None:
        """Start the origin; `rate` is what its line carries: a WAN, and no site's LAN."""
        prefix, address = self._lab.host("origin", rate=rate)
        listeners = (f"{address}:{PORT}", f"{address}:{ENROL_PORT}")
        await self.init(*listeners, *self.founding, prefix=prefix)
        await self.start("origin")

    def cut_off(self, name: str) -> None:
        """From now on only the operator reaches this program."""
        operator = f"{NETWORK}.1"
        _run(*self.programs[name].prefix, "nft", f"""
            add table ip gap
            add chain ip gap in {{ type filter hook input priority 0; }}
            add rule ip gap in ip saddr != {{ {operator}, 127.0.0.1 }} drop
        """)  # fmt: skip

    async def enrol(
        self,
        count: int,
        products: Sequence[str],
        *,
        receive: int = 0,
        switch: str = "at-once",
        ring: str = RING_DEFAULT,
        **more: Any,
    ) -> list[str]:
        """Enrol `count` more endpoints that take `receive` bytes a second; their names.

        `switch`: when their products do; `ring`: of their certificates; `more`: other settings.
        """
        names = [f"endpoint-{self._lab.number()}" for _ in range(count)]
        self.endpoints += names
        programs = []
        for name in names:
            roots = self.folder / name / "roots"
            options: Table = {
                **more,
                "limits": {"receive_bytes_per_s": receive},
                "products": {
                    each: {"root": str(roots / each), "settle_s": 0.0, "switch": switch}
                    for each in products
                },
            }
            programs.append(self.program(name, Role.AGENT, options))
        await self.add_all(programs, ring=ring)
        return names

    async def start_all(self, names: Sequence[str]) -> None:
        """Start several programs."""
        await asyncio.gather(*(self.start(name) for name in names))

    def program(self, name: str, role: Role, options: Table, *, rate: str = "") -> Program:
        """A program on a machine of its own, found by mDNS on that machine's only line."""
        prefix, address = self._lab.host(name, rate=rate)
        own = options | {"mdns": [address]}
        return Program(name, role, f"{address}:{PORT}", self.folder / name, prefix, own)

    # --- an operator's acts --------------------------------------------------------------------

    async def publish(self, product: str, version: str, size: int, *words: str) -> None:
        """Publish `size` bytes that neither compress nor repeat; `words`: more options."""
        tree = self.folder / "trees" / f"{product}-{version}"
        tree.mkdir(parents=True)
        noise = Random(f"{product} {version}").randbytes(size)
        (tree / "content.bin").write_bytes(noise)
        fleet = ("--fleet", str(self.fleet))
        await self.firedoor("publish", product, version, str(tree), *fleet, *words)

    async def halt(self, scope: str, *, at: str) -> None:
        """Halt `scope` by handing the order to the one program `at`."""
        # Without the origin in reach the command waits in vain to hear that the order is committed.
        wait = ("--wait", "5")
        key = str(self.fleet / "keys" / "halt-1.key")
        to = self.programs[at].address
        await self.firedoor("halt", scope, "--reason", "it is bad", "--key", key, "--to", to, *wait)

    # --- waiting -------------------------------------------------------------------------------

    async def until_all(
        self, what: str, names: Sequence[str], holds: Callable[[Table], bool]
    ) -> dict[str, Table]:
        """The statuses of `names` once each of them answers and `holds`."""
        seen: dict[str, Table] = {}

        async def look() -> bool:
            self._check_alive()
            seen.update(await self.statuses(names))
            return len(seen) == len(names) and all(holds(seen[name]) for name in names)

        await self.until(what, look, STEP_S)
        return seen

    async def until_running(
        self, product: str, version: str, names: Sequence[str]
    ) -> dict[str, Table]:
        """The statuses of `names` once all run that version."""
        return await self.until_all(
            f"all run {product} {version}", names, lambda each: version_of(each, product) == version
        )

    async def until_moving(self, product: str, names: Sequence[str]) -> dict[str, Table]:
        """The statuses of `names` once all have a part of the product's newest release."""
        return await self.until_all(
            f"all are in mid-transfer of {product}", names, lambda each: is_moving(each, product)
        )

    async def until_halted(self, names: Sequence[str]) -> dict[str, Table]:
        """The statuses of `names` once all have the one order on their disks."""
        return await self.until_all("all have recorded the halt", names, has_recorded)

    def _check_alive(self) -> None:
        for program in self.programs.values():
            ended = program.process and program.process.returncode
            if ended and ended > 0:
                raise Unavailable(program.name, why=f"it ended by itself with exit code {ended}")

    def logs(self) -> str:
        """The last lines of every program, for a failure's report."""
        lines = []
        for program in self.programs.values():
            path = program.folder / "log"
            text = path.read_text("utf-8")[-_LOG_TAIL:] if path.exists() else "never started"
            lines.append(f"--- {program.name} ({program.address})\n{text}")
        return "\n".join(lines)


def tell(
    folder: Path,
    story: Callable[[LabSite], Awaitable[None]],
    kind: Callable[[Path, Lab], LabSite] = LabSite,
) -> None:
    """Run `story` with a fleet in a lab; leaves no process and no namespace behind."""

    async def guarded(site: LabSite) -> None:
        try:
            await story(site)
        except BaseException:
            print(site.logs())
            raise
        finally:
            await site.close()

    with Lab() as lab:
        asyncio.run(guarded(kind(folder, lab)))


def clock_off_by(days: int) -> tuple[str, ...]:
    """What runs a program with its wall clock off; what waits goes by the right one."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("a wrong clock needs libfaketime (package faketime)")
    return (
        "env",
        f"LD_PRELOAD={library}",
        f"FAKETIME={days:+d}d",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )


def release_of(status: Table, product: str) -> Table:
    """The row of the product's newest release in a status; empty when it is not known there."""
    rows = [row for row in status["releases"] if row["product"] == product]
    newest: Table = max(rows, key=lambda row: row["counter"], default={})
    return newest


def product_of(status: Table, product: str) -> Table:
    """The row of a product in an endpoint's status."""
    row: Table = next(row for row in status["products"] if row["product"] == product)
    return row


def is_moving(status: Table, product: str) -> bool:
    """Whether a part of the product's newest release is there."""
    row = release_of(status, product)
    return bool(row) and 0 < row["pieces_have"] < row["pieces_total"]


def has_recorded(status: Table) -> bool:
    """Whether an order is on this program's disk."""
    return any(row["is_recorded"] for row in status["orders"])


def received(status: Table) -> int:
    """Bytes of pieces that came to an endpoint since it started."""
    moved = status["bytes"]
    return int(moved["mirror"]) + int(moved["peer"])


def _need_root_and_tools() -> None:
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("live tests make network namespaces, and only root may")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            pytest.skip(f"live tests need the program `{tool}` (package iproute2)")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


def _delete_space(space: str) -> None:
    # Only what was started in this namespace has it; site.close() has ended all of it by now.
    for each in _run("ip", "netns", "pids", space).split():
        if int(each) != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(int(each), signal.SIGKILL)
    _run("ip", "netns", "delete", space)


def _set_namespace(descriptor: int) -> None:
    # os.setns() comes with Python 3.12.
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        raise Unavailable("network namespace", why=os.strerror(ctypes.get_errno()))

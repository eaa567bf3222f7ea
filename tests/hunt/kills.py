"""An endpoint that is killed at random moments while halts arrive: what it acknowledged it keeps.

A real agent process, forked from a warm parent, over a real state folder and real mTLS; an operator
hands it one halt after another, and SIGKILL comes between 0 and MOMENT_S after that began.
"""

import asyncio
import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from firedoor.cli.client.order_delivery import give
from firedoor.cli.demo.local_fleet import Program, Site, free_port
from firedoor.errors import FiredoorError
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.storage.order_log import ORDER, read_frames
from tests.bench.fork_server import ForkServer
from tests.bench.mailbox import Mailbox
from tests.unit.guard_reading import read_orders

# A hand-over takes some 20 ms, with its record and its answer; longer where the machine is busy.
# So the moment grows while nothing is acknowledged, and shrinks while something is.
MOMENT_S = 0.06
MOMENT_S_MAX = 2.0
GROWS, SHRINKS = 1.2, 0.95

# From a start to the first answer on the port.
START_S = 20.0

# The order set has an end; before it all begins anew. The origin takes only so many of one key.
KILLS_OF_ONE_FLEET = 400
HALT_KEYS = 32

PRODUCT = "load"


def hunt(folder: Path, *, times: int, seed: int) -> dict[str, Any]:
    """Kill an endpoint `times` times; what was acknowledged, and what of that was lost."""
    mailbox = Mailbox(folder / "mailbox")
    with ForkServer(folder / "log") as fork:
        try:
            return asyncio.run(_hunt(folder, fork, mailbox, times=times, dice=Random(seed)))
        except BaseException:
            print((folder / "log").read_text("utf-8", "replace")[-3000:])
            raise
        finally:
            mailbox.close()


async def _hunt(
    folder: Path, fork: ForkServer, mailbox: Mailbox, *, times: int, dice: Random
) -> dict[str, Any]:
    found = {"kills": 0, "acknowledged": 0, "torn_ends": 0, "lost": 0}
    life = 0
    while found["kills"] < times:
        life += 1
        count = min(times - found["kills"], KILLS_OF_ONE_FLEET)
        site = Site(folder / f"site-{life}", mdns=())
        site.folder.mkdir()
        try:
            more = await _one_fleet(site, fork, mailbox, times=count, dice=dice)
        finally:
            fork.end_all()
            await site.close()
        found = {name: found[name] + more[name] for name in found}
    return found


async def _one_fleet(
    site: Site, fork: ForkServer, mailbox: Mailbox, *, times: int, dice: Random
) -> dict[str, int]:
    origin, moment_s = f"127.0.0.1:{free_port()}", MOMENT_S
    await site.init(origin, f"127.0.0.1:{free_port()}", "--halt-keys", str(HALT_KEYS))
    await site.start("origin")
    tree = site.folder / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    await site.firedoor("publish", PRODUCT, "1", str(tree), "--fleet", str(site.fleet))
    paths = [site.fleet / "keys" / f"halt-{number + 1}.key" for number in range(HALT_KEYS)]
    keys = [read_key_file(path, str) for path in paths]
    victim = await _enrolled(site, origin)
    promised: set[bytes] = set()
    lost = torn = 0
    for number in range(times):
        key, span_s = keys[number % HALT_KEYS], moment_s * dice.random()
        fresh = await _one_kill(victim, fork, mailbox, key=key, span_s=span_s)
        moment_s = min(MOMENT_S_MAX, moment_s * (SHRINKS if fresh else GROWS))
        promised |= fresh
        kept, is_torn = _on_disk(victim)
        lost += len(promised - kept)
        torn += is_torn
    await site.kill("origin")
    lost += await _undenied(victim, fork, mailbox, site, is_halted=bool(promised))
    return {"kills": times, "acknowledged": len(promised), "torn_ends": torn, "lost": lost}


async def _enrolled(site: Site, origin: str) -> Program:
    """An endpoint, with its state folder."""
    options = {"mirrors": [origin]}
    address = f"127.0.0.1:{free_port()}"
    program = Program("victim", Role.AGENT, address, site.folder / "victim", options=options)
    await site.add(program)
    return program


async def _one_kill(
    victim: Program, fork: ForkServer, mailbox: Mailbox, *, key: KeyFile, span_s: float
) -> set[bytes]:
    """Start, hand halts over, kill; the orders that were acknowledged before."""
    pid = await _start(victim, fork, mailbox)
    promised: set[bytes] = set()
    ended = asyncio.ensure_future(_hand_over(victim, key, promised))
    await asyncio.sleep(span_s)
    os.kill(pid, signal.SIGKILL)
    ended.cancel()
    with suppress(asyncio.CancelledError, FiredoorError):
        await ended
    await asyncio.to_thread(_wait_for_end, pid, victim.folder / "state")
    return promised


async def _start(victim: Program, fork: ForkServer, mailbox: Mailbox) -> int:
    config = str(victim.folder / "settings.toml")
    pid = await asyncio.to_thread(fork.fork, "agent", 0, config=config, mailbox=str(mailbox.path))
    host, port = victim.address.rsplit(":", 1)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.005)
            continue
        writer.close()
        return pid
    raise SystemExit("the endpoint does not start")


async def _hand_over(victim: Program, key: KeyFile, promised: set[bytes]) -> None:
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    host, port = victim.address.rsplit(":", 1)
    seeds = {key.keyid: key.signing_seed}
    try:
        while True:
            payload = HaltPayload(1, os.urandom(16), f"{PRODUCT}==1", 4, Clock().unix(), "hunt")
            order, record = seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)
            await give(client, (host, int(port)), record, order)
            promised.add(order)
    finally:
        await client.close()


def _wait_for_end(pid: int, state: Path) -> None:
    """Until the killed process holds its folder no more: a thread may still wait for a disk."""
    deadline = time.monotonic() + START_S
    with (state / "lock").open("a+", encoding="ascii") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.001)
            else:
                return
    raise SystemExit(f"process {pid} does not end")


def _on_disk(victim: Program) -> tuple[set[bytes], bool]:
    """The ids of the whole orders in the log, and whether its end is torn."""
    path = victim.folder / "state" / "orders.log"
    data = path.read_bytes() if path.exists() else b""
    bodies, end, is_damaged = read_frames(data)
    assert not is_damaged
    fleet = read_key_file(victim.folder / "state" / "identity.key", str).fleet
    # Read as the boot guard reads them: by other code than that which wrote them.
    records = [body[1:] for body in bodies if body[:1] == ORDER]
    return set(read_orders(fleet, b"", records).halts), end < len(data)


async def _undenied(
    victim: Program, fork: ForkServer, mailbox: Mailbox, site: Site, *, is_halted: bool
) -> int:
    """1 if the endpoint does not deny, after one more start and without a peer, what was halted."""
    pid = await _start(victim, fork, mailbox)
    try:
        status = None
        deadline = time.monotonic() + START_S
        while not (status and status["releases"]) and time.monotonic() < deadline:
            status = await site.status(victim.name)
        levels = [row["level"] for row in (status or {"releases": []})["releases"]]
        return int(is_halted and levels != [4])
    finally:
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(_wait_for_end, pid, victim.folder / "state")

"""From a signed halt to the last of N endpoints, each a real process with its own state on disk.

* T0 is the moment at which the signed order exists; the harness then dials the origin as
  `firedoor halt` does. All times are CLOCK_BOOTTIME of this machine, stamped by who did it.
* The first order since the endpoints started is `cold`; the rounds after it are warm, and give
  medians of p50 and p99 and the largest maximum.
* A round begins once the machine is steady: what endpoints do all day belongs to the figures, what
  they do only after a start or an order does not.
* `cpu_s` is what the origin and all endpoints used from T0 to the last record, idle work included.
* `certificate` is one more halt's: how long after T0 it says that all have enforced it, and how
  long its check with no network takes.
* `rss_mb` is the sum of Pss of the origin, the fork server and all endpoints.
* `covered_bytes_after_t0_plus_1s` is an upper bound: an endpoint where a halted byte came later
  than that counts with all that came after its brake had closed. Null under loss, where the fetch
  that is to be cut may not have begun everywhere.

Beside it in the same run: a bare star (star.py), and, where they are installed, Serf and NATS.
"""

import asyncio
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from firedoor.cli.client.order_delivery import give
from firedoor.cli.demo.local_fleet import Program, Site, free_port, toml
from firedoor.cli.orders.attestation import checked
from firedoor.halt.attestation import Standing
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.limits import CERTIFICATE_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import id_of_request, issue, make_request
from firedoor.runtime.keys.key_files import KeyFile, read_key_file, write_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.trust.keys import key_of
from mirror.origin.enrolments import Enrolments
from tests.bench import nats, serf, star
from tests.bench.distribution import Row, row_of, row_of_rounds, since
from tests.bench.fork_server import ForkServer
from tests.bench.loss import LOOPBACK, Place, begin_loss, end_loss, enter_namespace
from tests.bench.mailbox import Mailbox, Times

PRODUCT = "load"
SITE = "branch"

# One step for one endpoint on a busy machine; a thousand of them join in a few minutes.
STEP_S = 60.0
STEP_EACH_S = 0.4

# An endpoint that has not recorded an order by then counts as not reached.
ROUND_S = 20.0

# Endpoints that start at one time: each brings a dozen handshakes and an installation.
STARTING_MAX = 24

# The machine is steady when two windows in a row use about the same CPU.
WINDOW_S = 2.0
STEADY_SHARE = 0.15
STEADY_CORES = 0.05
STEADY_S = 60.0

# The origin gives pieces this slowly, so that a release is in mid-transfer when it is halted.
SEND_BYTES_PER_S = 1 << 20
PAYLOAD_BYTES = 8 << 20
# How often the certificate is asked for while it fills.
LOOK_S = 0.1

FIRST_PAYLOAD = b"a small product"
UNDER_WAY_BYTES = 1 << 20
LATE_S = 1.0

# Ports of endpoints lie below those that the kernel gives to outgoing connections.
FIRST_PORT = 12_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured. `rounds`: warm ones, after a cold one.

    `spare`: so many identities more, for machines that are started later or never; `kind`, `facts`:
    what the fork server makes of each endpoint, and what it is told besides, by index;
    `has_mirror`: the endpoints hang at a mirror below the origin.
    """

    agents: int
    rounds: int
    loss: int
    beside: tuple[str, ...]
    spare: int = 0
    kind: str = "agent"
    facts: Callable[[int], dict[str, object]] = lambda _: {}
    has_mirror: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One order. `cpu_s`: of the origin and all endpoints, from T0 to the last record."""

    begin: float
    times: Mapping[int, Times]
    enforced: Mapping[int, Times]
    cpu_s: float


@dataclass(slots=True)
class Fleet:
    """What is running. `pids`: of the endpoints, by index; `mirror`: name of where they hang."""

    site: Site
    fork: ForkServer
    mailbox: Mailbox
    place: Place
    key: KeyFile
    origin: int
    mirror: str = "origin"
    pids: list[int] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where the origin listens."""
        return int(self.site.programs["origin"].address.rpartition(":")[2])

    @property
    def mirror_port(self) -> int:
        """Where the endpoints' mirror listens."""
        return int(self.site.programs[self.mirror].address.rpartition(":")[2])

    @property
    def mirror_pid(self) -> int:
        """The endpoints' mirror."""
        process = self.site.programs[self.mirror].process
        assert process is not None
        return process.pid

    def cpu_s(self) -> float:
        """CPU seconds of the origin and all endpoints so far."""
        return sum(map(cpu_of, [self.origin, *self.pids]))


def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = enter_namespace(plan.loss) if plan.loss else LOOPBACK
    mailbox = Mailbox(folder / "mailbox")
    with ForkServer(folder / "log") as fork:
        try:
            table: dict[str, Any] = {
                "firedoor": asyncio.run(_firedoor(folder, plan, place, fork=fork, mailbox=mailbox))
            }
            identities = [folder / "site" / "fleet" / "origin" / "identity.key"]
            identities += [_home(folder, index) / "identity.key" for index in range(plan.agents)]
            table["star"] = star.measure(
                fork, mailbox, folder, place=place, identities=identities, rounds=plan.rounds
            )
        except BaseException:
            _show_log(folder / "log")
            raise
        table["serf"] = table["nats"] = None
        counts = (plan.agents, plan.rounds)
        if "serf" in plan.beside:
            table["serf"] = serf.measure(mailbox, folder, place=place, counts=counts)
        if "nats" in plan.beside:
            table["nats"] = nats.measure(fork, mailbox, folder, place=place, counts=counts)
    return table


async def _firedoor(
    folder: Path, plan: Plan, place: Place, *, fork: ForkServer, mailbox: Mailbox
) -> dict[str, Any]:
    site = Site(folder / "site", mdns=())
    site.folder.mkdir()
    try:
        fleet = await _begin(site, plan, place, fork=fork, mailbox=mailbox)
        begin_loss(place)
        rounds = [await _round(fleet, f"{PRODUCT}==1") for _ in range(plan.rounds + 1)]
        end_loss(place)
        memory = sum(map(pss_mb, [fleet.origin, fork.pid, *fleet.pids]))
        await _steady(fleet)
        certificate = await _certificate(fleet)
        covered = None if place.loss else await _covered(fleet)
        return _table(rounds, plan.agents) | {
            "certificate": certificate,
            "covered_bytes_after_t0_plus_1s": covered,
            "rss_mb": round(memory, 1),
        }
    except BaseException:
        mailbox.close()
        raise
    finally:
        end_loss(place)
        fork.end_all()
        await site.close()


def _table(rounds: Sequence[Round], agents: int) -> dict[str, Any]:
    closed, recorded = (
        [row_of(since(one.begin, one.times, column)) for one in rounds] for column in (0, 1)
    )
    enforced = [row_of(since(one.begin, one.enforced, 0)) for one in rounds]
    return {
        "agents": agents,
        "reached": min(len(one.times) for one in rounds),
        "closed_ms": row_of_rounds(closed[1:]),
        "recorded_ms": row_of_rounds(recorded[1:]),
        "enforced_ms": row_of_rounds(enforced[1:]),
        "cold_recorded_ms": recorded[0],
        "cpu_s": round(median(one.cpu_s for one in rounds[1:]), 3),
    }


# --- setting up ----------------------------------------------------------------------------------


async def _begin(
    site: Site, plan: Plan, place: Place, *, fork: ForkServer, mailbox: Mailbox
) -> Fleet:
    """A fleet whose endpoints all run version 1, and rest."""
    address = f"127.0.0.1:{free_port()}"
    origin = await site.init(address, f"127.0.0.1:{free_port()}")
    settings = origin.folder / "settings.toml"
    text = settings.read_text("utf-8")
    listen = address.replace("127.0.0.1", place.listen)
    text = text.replace(f'listen = "{address}"', f'listen = "{listen}"', 1)
    text = text.replace("mdns = []", f"mdns = {json.dumps(site.mdns)}", 1)
    limits = toml({"limits": {"send_bytes_per_s": SEND_BYTES_PER_S}})
    settings.write_text(text + limits, "utf-8")
    mirror = f"127.0.0.1:{free_port()}" if plan.has_mirror else address
    await asyncio.to_thread(_enrol, site, plan.agents + plan.spare, mirror)
    await site.start("origin")
    if plan.has_mirror:
        options = {"upstream": [address]}
        await site.add(
            Program("mirror", Role.MIRROR, mirror, site.folder / "mirror", options=options)
        )
        await site.start("mirror")
    await _publish(site, "1", FIRST_PAYLOAD)
    process = site.programs["origin"].process
    assert process is not None
    key = read_key_file(site.fleet / "keys" / "halt-1.key", str)
    name = "mirror" if plan.has_mirror else "origin"
    fleet = Fleet(site, fork, mailbox, place, key, process.pid, name)
    await asyncio.to_thread(_start_agents, fleet, plan)
    return fleet


def _enrol(site: Site, agents: int, mirror: str) -> None:
    """Make `agents` identities as the origin would for as many tokens, and their settings."""
    authority = read_key_file(site.fleet / "origin" / "ca.key", str)
    ca = (site.fleet / "origin" / "ca.pem").read_bytes()
    state = site.folder / "origin" / "state"
    state.mkdir(mode=0o700)
    enrolments, now, port = Enrolments(state / "origin.sqlite"), Clock().unix(), FIRST_PORT
    try:
        for index in range(agents):
            secret = os.urandom(64)
            request, public = make_request(secret[32:]), key_of(secret[:32])
            token = enrolments.issue(Role.AGENT, SITE, span_s=3600, now=now)
            peer = id_of_request(request)
            grant = enrolments.redeem(token, peer, now)
            certificate = issue(
                request, ca_pem=ca, ca_seed=authority.signing_seed, role=grant.role,
                site=grant.site, now=now,
            )  # fmt: skip
            key = KeyFile(
                role=grant.role.value,
                name=peer,
                fleet=authority.fleet,
                keyid=public.keyid,
                public=public.keyval["public"],
                secret=secret.hex(),
                certificate=certificate.decode(),
                ca=ca.decode(),
            )
            home = _home(site.folder.parent, index)
            home.mkdir(parents=True, mode=0o700)
            write_key_file(home / "identity.key", key, None)
            port = free_port_from(port)
            settings = {
                "fleet_root": str(site.fleet / "root.json"),
                "state": str(home),
                "listen": f"127.0.0.1:{port}",
                "site": SITE,
                "mirrors": [mirror],
                "mdns": site.mdns,
                "products": {PRODUCT: {"root": str(home / "root"), "settle_s": 0.0}},
            }
            (home / "settings.toml").write_text(toml(settings), "utf-8")
            name = _name(index)
            site.programs[name] = Program(name, Role.AGENT, f"127.0.0.1:{port}", home)
            port += 1
    finally:
        enrolments.close()


def _start_agents(fleet: Fleet, plan: Plan) -> None:
    agents, mailbox = plan.agents, fleet.mailbox
    span_s = STEP_S + STEP_EACH_S * agents
    for index in range(agents):
        config = str(fleet.site.programs[_name(index)].folder / "settings.toml")
        facts = {"config": config, "mailbox": str(mailbox.path), **plan.facts(index)}
        pid = fleet.fork.fork(plan.kind, index, **facts)
        fleet.pids.append(pid)
        mailbox.wait("ready", "1", index - STARTING_MAX, STEP_S)
    ready = mailbox.wait("ready", "1", agents, span_s)
    if len(ready) < agents:
        raise SystemExit(f"only {len(ready)} of {agents} endpoints run the product")


async def _publish(site: Site, version: str, content: bytes) -> None:
    tree = site.folder / f"tree-{version}"
    tree.mkdir()
    (tree / "content.bin").write_bytes(content)
    await site.firedoor("publish", PRODUCT, version, str(tree), "--fleet", str(site.fleet))


# --- one order -----------------------------------------------------------------------------------


async def _round(fleet: Fleet, scope: str) -> Round:
    await _steady(fleet)
    return await _halt(fleet, scope)


async def _halt(fleet: Fleet, scope: str) -> Round:
    """Sign a halt, hand it to the origin, wait until every endpoint has recorded it."""
    client = PeerClient(credentials_of(fleet.key), Clock(), Budget(0))
    payload = HaltPayload(1, os.urandom(16), scope, 4, Clock().unix(), "it is bad")
    keys, before = {fleet.key.keyid: fleet.key.signing_seed}, fleet.cpu_s()
    order_id, order = seal("halt", payload, fleet=FleetId(fleet.key.fleet), keys=keys)
    begin = Clock().now()
    try:
        address, agents = (fleet.place.operator, fleet.port), len(fleet.pids)
        heard = asyncio.to_thread(fleet.mailbox.wait, "recorded", order_id.hex(), agents, ROUND_S)
        waiting = asyncio.ensure_future(heard)
        await give(client, address, order, order_id)
        times = await waiting
        used = fleet.cpu_s() - before
        name = order_id.hex()
        enforced = await asyncio.to_thread(fleet.mailbox.wait, "enforced", name, agents, ROUND_S)
        return Round(begin, times, enforced, used)
    finally:
        await client.close()


async def _certificate(fleet: Fleet) -> dict[str, Any]:
    """When the origin's certificate says that all have enforced a halt, and what a check takes."""
    key = read_key_file(fleet.site.fleet / "keys" / "operator.key", str)
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    root = (fleet.site.fleet / "root.json").read_bytes()
    keys = {fleet.key.keyid: fleet.key.signing_seed}
    payload = HaltPayload(1, os.urandom(16), f"{PRODUCT}==1", 4, Clock().unix(), "it is bad")
    order_id, order = seal("halt", payload, fleet=FleetId(fleet.key.fleet), keys=keys)
    begin, path = Clock().now(), f"/v1/certificate/{order_id.hex()}"
    try:
        address = (fleet.place.operator, fleet.port)
        await give(client, address, order, order_id)
        while True:
            data = await client.get(*address, path, role=Role.MIRROR, limit=CERTIFICATE_BYTES_MAX)
            checking = time.perf_counter()
            found = checked(data, root)
            verified_ms = (time.perf_counter() - checking) * 1000
            enforced, span = found.count(Standing.ENFORCED), Clock().now() - begin
            if enforced == len(fleet.pids) or span > ROUND_S:
                return {
                    "expected": len(found.rows),
                    "enforced": enforced,
                    "after_t0_ms": round(span * 1000, 1),
                    "verify_ms": round(verified_ms, 1),
                    "bytes": len(data),
                }
            await asyncio.sleep(LOOK_S)
    finally:
        await client.close()


async def _steady(fleet: Fleet) -> None:
    """Wait until the fleet uses as much CPU as a moment ago: what came last is digested."""
    deadline = time.monotonic() + STEADY_S
    last = float("inf")
    while time.monotonic() < deadline:
        before, began = fleet.cpu_s(), time.monotonic()
        await asyncio.sleep(WINDOW_S)
        cores = (fleet.cpu_s() - before) / (time.monotonic() - began)
        if abs(cores - last) <= max(STEADY_CORES, STEADY_SHARE * last):
            return
        last = cores
    print(f"not steady after {STEADY_S:.0f} s; going on", flush=True)


async def _covered(fleet: Fleet) -> int:
    """Bytes of a release, halted in mid-transfer, that still came later than T0 + LATE_S."""
    await _publish(fleet.site, "2", os.urandom(PAYLOAD_BYTES))

    async def is_under_way() -> bool:
        status = await fleet.site.status("origin")
        return status is not None and status["bytes"]["sent"] >= UNDER_WAY_BYTES

    names = [_name(index) for index in range(len(fleet.pids))]
    await fleet.site.until("the release is under way", is_under_way, STEP_S)
    done = await _halt(fleet, f"{PRODUCT}==2")
    late_at, late = done.begin + LATE_S, 0
    for name in names:
        status = await _status(fleet, name)
        if status["covered"]["last_at"] > late_at:
            late += status["covered"]["bytes"]
        if done.times.get(_index(name), (float("inf"),))[0] > late_at:
            # Before its brake closed nothing was counted as covered.
            moved = status["bytes"]["mirror"] + status["bytes"]["peer"]
            late += max(0, moved - len(FIRST_PAYLOAD))
    return late


async def _status(fleet: Fleet, name: str) -> dict[str, Any]:
    """The status of an endpoint, which may be busy yet."""
    deadline = time.monotonic() + STEP_S
    while time.monotonic() < deadline:
        status = await fleet.site.status(name)
        if status is not None:
            return status
    raise SystemExit(f"{name} does not answer")


# --- small things --------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond; 0 once it is gone."""
    try:
        # The clock of another process; see clock_getcpuclockid(3) and <linux/posix-timers.h>.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def pss_mb(pid: int) -> float:
    """Resident memory, what is shared counted in shares; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def free_port_from(first: int) -> int:
    """The first TCP port of loopback from there on that nobody listens on."""
    for port in range(first, 1 << 16):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit("no free port")


def _home(folder: Path, index: int) -> Path:
    return folder / "agents" / f"{index}"


def _name(index: int) -> str:
    return f"agent-{index}"


def _index(name: str) -> int:
    return int(name.removeprefix("agent-"))


def _show_log(log: Path) -> None:
    if log.exists():
        print(log.read_text("utf-8", "replace")[-3000:])


def show(table: Mapping[str, Any]) -> None:
    """The figures for a person."""
    names = ("closed_ms", "recorded_ms", "enforced_ms", "cold_recorded_ms")
    rows: list[tuple[str, Row | None]] = [
        (f"firedoor {name}", table["firedoor"][name]) for name in names
    ]
    rows += [("star ms", table["star"]["ms"]), ("star cold_ms", table["star"]["cold_ms"])]
    rows += [(f"{name} ms", table[name]["ms"]) for name in ("serf", "nats") if table[name]]
    print(f"{'':28}{'p50':>9}{'p99':>9}{'max':>9}")
    for name, row in rows:
        cells = [f"{row[column]:9.1f}" if row else f"{'-':>9}" for column in ("p50", "p99", "max")]
        print(f"{name:28}{''.join(cells)}")

"""Benchmarks that anyone can run; the last line is one JSON object. Linux only: /proc is read.

`python -m tests.bench serve [--mib N] [--times K]`: CPU to serve with mTLS, beside nginx. A real
origin serves a release to `firedoor-agent fetch`; nginx, if it is installed, serves the same bytes
with TLS 1.3 and a required client certificate to curl.

`python -m tests.bench site [--mib N] [--endpoints K]`: from `firedoor publish` to the last endpoint
of a site on loopback, with the memory and the CPU of origin, mirror and agents, busy and idle.

`python -m tests.bench cut [--rate 10mbit] [--mib N] [--times K]`: what a receiver still gets after
a halt closed the sender's brake, beside an nginx that is killed. Needs root, for its own line.

`python -m tests.bench halt [--agents N] [--loss P] [--rounds K] [--beside serf,nats] [--json]`:
from a signed halt to the last of N endpoints, beside a bare star of as many processes. `--loss`
drops P of a hundred packets and needs root; `--json` leaves out the table for people.

`python -m tests.bench idle [--agents N] [--seconds S]`: bytes a second of WAN and LAN, and CPU, of
a site with a mirror and N endpoints (8) where nothing happens. Needs root, ip, tc and nft.

`python -m tests.bench flood [--agents N] [--per-s R] [--seconds S] [--batch B] [--mirror]`: an
honest halt while R forged records a second (10,000), B in a frame, come in from enrolled machines,
at the origin or at a mirror below it. Needs root, ip and nft. `--attack KIND,...`, or `all`: beside
other attacks on the origin (tests/bench/attacks.py), each with the halts of a quiet moment before;
`spin` is none of them, and burns a core only. `--rounds K` (1): medians over K fleets.

`python -m tests.bench partition [--agents N] [--rounds K] [--freeze S]`: the last activation of a
halted product at N endpoints (20) that were cut off from the origin just before, some with wrong
clocks, some of which stand still, in the last round for S seconds; a round (1) takes a minute.
Needs root, ip and nft.

`python -m tests.bench thin [--sites N] [--rate 256kbit] [--latency 400ms]`: a halt to N sites (8),
each behind a line that is full of the release that it halts, with a queue of so long before it.
Needs root, ip and tc.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from firedoor.cli.demo.local_fleet import Program, Site, free_port, version_of
from firedoor.identity import Role
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from tests.bench import cut, flood, halt, idle, partition, thin
from tests.bench.attacks import ATTACKS
from tests.bench.nginx import children_of, find_nginx, nginx_serving

IDLE_S = 10.0


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of its children that live."""
    total = 0.0
    for each in [pid, *children_of(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text("utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def client_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def serve_by_firedoor(folder: Path, payload: Path, times: int) -> dict[str, Any]:
    site = Site(folder / "site", mdns=())
    site.folder.mkdir()
    origin = f"127.0.0.1:{free_port()}"
    try:
        await site.init(origin, f"127.0.0.1:{free_port()}")
        await site.start("origin")
        await site.firedoor("publish", "load", "1", str(payload), "--fleet", str(site.fleet))
        process = site.programs["origin"].process
        assert process is not None
        for number in range(times):
            address = f"127.0.0.1:{free_port()}"
            options = {"mirrors": [origin]}
            name = f"reader-{number}"
            program = Program(name, Role.AGENT, address, site.folder / name, options=options)
            await site.add(program)
        before, client, began = cpu_of(process.pid), client_cpu(), time.monotonic()
        for number in range(times):
            home = site.folder / f"reader-{number}"
            command = [sys.executable, "-m", "agent", "--config", str(home / "settings.toml")]
            done = await asyncio.create_subprocess_exec(
                *command, "fetch", "load", "--out", str(home / "out"), stderr=subprocess.DEVNULL
            )
            if await done.wait() != 0:
                raise SystemExit("fetch failed")
        gb = times * payload.stat().st_size / 1e9
        return {
            "server_cpu_s_per_gb": round((cpu_of(process.pid) - before) / gb, 2),
            "client_cpu_s_per_gb": round((client_cpu() - client) / gb, 2),
            "wall_s": round(time.monotonic() - began, 2),
            "server_rss_mb": round(rss_mb(process.pid), 1),
        }
    finally:
        await site.close()


def serve_by_nginx(folder: Path, payload: Path, times: int) -> dict[str, Any] | None:
    if find_nginx() is None or shutil.which("curl") is None:
        return None
    address = f"127.0.0.1:{free_port()}"
    key = read_key_file(folder / "site" / "fleet" / "origin" / "identity.key", str)
    home = folder / "nginx"
    with nginx_serving(payload, home, credentials_of(key), address) as server:
        before, began = cpu_of(server.pid), time.monotonic()
        for _ in range(times):
            words = ["curl", "-sSf", "-k", "--cert", str(home / "identity.pem")]
            subprocess.run([*words, "-o", "/dev/null", f"https://{address}/load"], check=True)
        gb = times * payload.stat().st_size / 1e9
        return {
            "server_cpu_s_per_gb": round((cpu_of(server.pid) - before) / gb, 2),
            "wall_s": round(time.monotonic() - began, 2),
        }


async def site_of(folder: Path, payload: Path, endpoints: int) -> dict[str, Any]:
    """One release through a mirror to `endpoints` agents, then ten idle seconds."""
    site = Site(folder / "site")
    site.folder.mkdir()
    origin = f"127.0.0.1:{free_port()}"
    names = [f"agent-{number}" for number in range(endpoints)]
    try:
        await site.init(origin, f"127.0.0.1:{free_port()}")
        await site.start("origin")
        address, home = f"127.0.0.1:{free_port()}", site.folder / "mirror"
        options: dict[str, Any] = {"upstream": [origin]}
        await site.add(Program("mirror", Role.MIRROR, address, home, options=options))
        await site.start("mirror")
        programs = []
        for name in names:
            home = site.folder / name
            options = {"products": {"load": {"root": str(home / "root"), "settle_s": 0.0}}}
            address = f"127.0.0.1:{free_port()}"
            programs.append(Program(name, Role.AGENT, address, home, options=options))
        await site.add_all(programs)
        await asyncio.gather(*(site.start(name) for name in names))
        before, began = cpus(site), time.monotonic()
        await site.firedoor("publish", "load", "1", str(payload), "--fleet", str(site.fleet))
        published = time.monotonic()

        async def all_run() -> bool:
            statuses = await site.statuses(names)
            return all(version_of(statuses.get(name), "load") == "1" for name in names)

        await site.until("all run it", all_run, 600.0)
        ended, busy = time.monotonic(), cpus(site)
        await asyncio.sleep(IDLE_S)
        idle = cpus(site)
        statuses = await site.statuses(["mirror", *names])
        moved = [statuses[name]["bytes"] for name in names]
        return {
            "endpoints": endpoints,
            "payload_bytes": payload.stat().st_size,
            "command_to_last_s": round(ended - began, 2),
            "published_to_last_s": round(ended - published, 2),
            "upstream_bytes": statuses["mirror"]["bytes"]["upstream"],
            "mirror_bytes": sum(each["mirror"] for each in moved),
            "peer_bytes": sum(each["peer"] for each in moved),
            "cpu_s": by_kind({name: busy[name] - before[name] for name in busy}),
            "idle_cpu_share": by_kind({name: (idle[name] - busy[name]) / IDLE_S for name in idle}),
            "rss_mb": by_kind({name: rss_mb(pid_of(site, name)) for name in site.programs}),
        }
    finally:
        await site.close()


def pid_of(site: Site, name: str) -> int:
    process = site.programs[name].process
    assert process is not None
    return process.pid


def cpus(site: Site) -> dict[str, float]:
    return {name: cpu_of(pid_of(site, name)) for name in site.programs}


def by_kind(values: dict[str, float]) -> dict[str, float]:
    """Origin, mirror, and the worst of the agents."""
    agents = [value for name, value in values.items() if name.startswith("agent")]
    found = {"origin": values["origin"], "mirror": values["mirror"], "agent_max": max(agents)}
    return {name: round(value, 4) for name, value in found.items()}


def measure_halt(folder: Path, arguments: argparse.Namespace) -> None:
    beside = tuple(each for each in arguments.beside.split(",") if each)
    agents = 50 if arguments.agents is None else arguments.agents
    rounds = 5 if arguments.rounds is None else arguments.rounds
    if agents < 1 or rounds < 1 or not set(beside) <= {"serf", "nats"}:
        raise SystemExit("halt: wanted at least one endpoint and round, beside serf or nats")
    plan = halt.Plan(agents, rounds, arguments.loss, beside)
    table = halt.measure(folder, plan)
    if not arguments.json:
        halt.show(table)
    print(json.dumps(table))


def measure_idle(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    agents, seconds = arguments.agents or 8, arguments.seconds or 60.0
    return idle.measure(folder, agents=agents, seconds=seconds)


def measure_flood(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = arguments.seconds or 20.0
    if arguments.attack:
        kinds = [*ATTACKS] if arguments.attack == "all" else arguments.attack.split(",")
        agents, rounds = arguments.agents or 16, arguments.rounds or 1
        return flood.measure_attacks(folder, agents=agents, kinds=kinds, rounds=rounds)
    what = flood.Flood(arguments.per_s, seconds, arguments.batch, at_mirror=arguments.mirror)
    return flood.measure(folder, agents=arguments.agents or 16, flood=what)


def measure_partition(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    agents, rounds = arguments.agents or 20, arguments.rounds or 1
    freeze_s = arguments.freeze
    return partition.measure(folder, agents=agents, rounds=rounds, freeze_s=freeze_s)


def measure_thin(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    rate, latency = arguments.rate or "256kbit", arguments.latency
    return thin.measure(folder, sites=arguments.sites, rate=rate, latency=latency)


def measure_cut(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        raise SystemExit("cut makes network namespaces: it wants root, ip and tc (iproute2)")
    rate, mib = arguments.rate or "10mbit", arguments.mib or 8
    return cut.measure(folder, rate=rate, times=arguments.times, mib=mib)


# Those that need nothing but their arguments.
SMALL = {
    "cut": measure_cut,
    "idle": measure_idle,
    "flood": measure_flood,
    "partition": measure_partition,
    "thin": measure_thin,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=["serve", "site", "halt", *SMALL])
    parser.add_argument("--mib", type=int)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--endpoints", type=int, default=8)
    parser.add_argument("--rate")
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--latency", default="400ms")
    parser.add_argument("--agents", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--per-s", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--attack", default="")
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--freeze", type=float, default=0.0)
    parser.add_argument("--loss", type=int, default=0, choices=range(100), metavar="P")
    parser.add_argument("--beside", default="", metavar="serf,nats")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # What was started must end with us, however we are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mib = arguments.mib or 256
    with tempfile.TemporaryDirectory(prefix="firedoor-bench-") as name:
        folder = Path(name)
        if arguments.bench in SMALL:
            print(json.dumps(SMALL[arguments.bench](folder, arguments)))
            return
        if arguments.bench == "halt":
            measure_halt(folder, arguments)
            return
        payload = folder / "load"
        payload.write_bytes(os.urandom(mib << 20))
        if arguments.bench == "site":
            print(json.dumps(asyncio.run(site_of(folder, payload, arguments.endpoints))))
            return
        firedoor = asyncio.run(serve_by_firedoor(folder, payload, arguments.times))
        nginx = serve_by_nginx(folder, payload, arguments.times)
        print(json.dumps({"firedoor": firedoor, "nginx": nginx}))


if __name__ == "__main__":
    main()

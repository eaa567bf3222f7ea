"""An honest halt while enrolled machines flood its mirror with forged records.

* The attackers have valid certificates of the role agent. A forged record names a real halt key
  and carries a signature that this key never made; many go in one frame, and a conversation that
  is ended for its refusals is opened anew at once.
* Beside that comes junk by UDP to the group where halts are said; all endpoints hear it.
* Attackers, origin and endpoints share this machine's cores, so that what the attackers burn
  themselves (a handshake for each conversation) slows the honest ones as well.

Times are as in halt.py, pooled over all halts of a kind. The endpoints' mirror, which is flooded,
is the origin, or one below it; halts are handed to the origin.

With `attack` it is one of attacks.py instead, or each of them in turn, of one fleet; the memory and
the descriptors are the most of the flooded program and of the first endpoint, beyond what each had.
"""

import asyncio
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firedoor.cli.demo.local_fleet import Program, Site
from firedoor.identity import Role
from tests.bench import halt
from tests.bench.distribution import row_of, row_of_rounds, since
from tests.bench.fork_server import ForkServer
from tests.bench.loss import Place, enter_namespace
from tests.bench.mailbox import Mailbox

ATTACKERS = 2

# Halts of each kind; one alone gives no more than `agents` times.
HALTS = 5
PAUSE_S = 1.0

# How long an attack goes on after it has got going: five halts and their pauses.
ATTACK_S = 12.0

# For the attackers to get going, and their conversations to be ended for the first time.
WARM_S = 3.0


@dataclass(frozen=True, slots=True)
class Flood:
    """What the attackers send together. `batch`: records in one frame.

    `at_mirror`: to a mirror below the origin.
    """

    per_s: int
    seconds: float
    batch: int
    at_mirror: bool = False


def measure(folder: Path, *, agents: int, flood: Flood) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    place = enter_namespace(0)
    subprocess.run(["ip", "route", "add", "224.0.0.0/4", "dev", "lo"], check=True)
    mailbox = Mailbox(folder / "mailbox")
    site = Site(folder / "site", mdns=("127.0.0.1",))
    site.folder.mkdir()
    plan = halt.Plan(agents, HALTS, 0, (), spare=ATTACKERS, has_mirror=flood.at_mirror)
    with ForkServer(folder / "log") as fork:

        async def story() -> dict[str, Any]:
            try:
                fleet = await halt._begin(site, plan, place, fork=fork, mailbox=mailbox)
                return await _flooded(fleet, flood)
            except BaseException:
                mailbox.close()
                halt._show_log(folder / "log")
                raise
            finally:
                fork.end_all()
                await site.close()

        return asyncio.run(story())


async def _flooded(fleet: halt.Fleet, flood: Flood) -> dict[str, Any]:
    await halt._round(fleet, f"{halt.PRODUCT}==1")  # The first is cold.
    await halt._steady(fleet)
    quiet = await _halts(fleet)
    before, cpu, began = rss_mb(fleet.mirror_pid), halt.cpu_of(fleet.mirror_pid), time.monotonic()
    for index in range(ATTACKERS):
        _start_attacker(fleet, index, flood)
    await asyncio.sleep(WARM_S)
    flooded = await _halts(fleet)
    left = max(0.0, began + flood.seconds - time.monotonic()) + halt.STEP_S
    said = await asyncio.to_thread(fleet.mailbox.wait, "flooded", "-", ATTACKERS, left)
    used = (halt.cpu_of(fleet.mirror_pid) - cpu) / (time.monotonic() - began)
    status = await fleet.site.status(fleet.mirror) or {}
    calm, storm = row_of(quiet), row_of(flooded)
    return {
        "agents": len(fleet.pids),
        "forged_per_s_sent": round(sum(sent / span for sent, _, span in said.values())),
        "forged_in_frame": flood.batch,
        "conversations": int(sum(talks for _, talks, _ in said.values())),
        "refused": status.get("refusals"),
        "recorded": {"wanted": HALTS * len(fleet.pids), "quiet": len(quiet), "flood": len(flooded)},
        "quiet_recorded_ms": calm,
        "flood_recorded_ms": storm,
        "ratio_p99": round(storm["p99"] / calm["p99"], 2) if calm and storm else None,
        "mirror_cpu_share": round(used, 2),
        "rss_mb_before": before,
        "rss_mb_after": rss_mb(fleet.mirror_pid),
    }


def measure_attacks(
    folder: Path, *, agents: int, kinds: Sequence[str], rounds: int
) -> dict[str, Any]:
    """The same beside each of these attacks in turn, and all of that by a new fleet for each round.

    Times are medians over the rounds, all else is the worst; no process and no namespace is left.
    """
    place = enter_namespace(0)
    subprocess.run(["ip", "route", "add", "224.0.0.0/4", "dev", "lo"], check=True)
    found = []
    for number in range(rounds):
        # The origin logs a key's orders slowly, and refuses more than so many that wait.
        home = folder / str(number)
        home.mkdir()
        found.append(_attacked(home, place, agents=agents, kinds=kinds))
    return {kind: _of_rounds([one[kind] for one in found]) for kind in kinds}


def _attacked(
    folder: Path, place: Place, *, agents: int, kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    mailbox = Mailbox(folder / "mailbox")
    site = Site(folder / "site", mdns=("127.0.0.1",))
    site.folder.mkdir()
    plan = halt.Plan(agents, HALTS, 0, (), spare=1)
    with ForkServer(folder / "log") as fork:

        async def story() -> dict[str, dict[str, Any]]:
            try:
                fleet = await halt._begin(site, plan, place, fork=fork, mailbox=mailbox)
                # Of another site: an origin takes a certificate of any.
                thief = Program("thief", Role.MIRROR, "127.0.0.1:7443", site.folder / "thief")
                await site.add(thief, site="elsewhere")
                await halt._round(fleet, f"{halt.PRODUCT}==1")  # The first is cold.
                return {
                    kind: await _beside(fleet, kind, number) for number, kind in enumerate(kinds)
                }
            except BaseException:
                traceback.print_exc()
                mailbox.close()
                halt._show_log(folder / "log")
                raise
            finally:
                fork.end_all()
                await site.close()

        return asyncio.run(story())


async def _beside(fleet: halt.Fleet, kind: str, number: int) -> dict[str, Any]:
    await halt._steady(fleet)
    quiet = await _halts(fleet)
    pids = [fleet.mirror_pid, fleet.pids[0]]
    before = [(rss_mb(pid), _descriptors(pid)) for pid in pids]
    used, began = [halt.cpu_of(pid) for pid in pids], time.monotonic()
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", "utf-8")
    home = halt._home(fleet.site.folder.parent, len(fleet.pids))
    programs = [fleet.site.programs[halt._name(index)] for index in range(len(fleet.pids))]
    facts = {
        "mailbox": str(fleet.mailbox.path),
        "attack": kind,
        "seconds": WARM_S + ATTACK_S,
        "port": fleet.mirror_port,
        "enrol_port": int(fleet.site._enrol.rpartition(":")[2]),
        "agent": str(home / "identity.key"),
        "mirror": str(fleet.site.folder / "thief" / "state" / "identity.key"),
        "release": str(fleet.site.fleet / "keys" / "releases-main-1.key"),
        "endpoints": [int(each.address.rpartition(":")[2]) for each in programs],
    }
    fleet.fork.fork("attack", 1000 + number, **facts)
    await asyncio.sleep(WARM_S)
    beside = await _halts(fleet)
    most, span = [_descriptors(pid) for pid in pids], time.monotonic() - began
    shares = [(halt.cpu_of(pid) - cpu) / span for pid, cpu in zip(pids, used, strict=True)]
    said = await asyncio.to_thread(
        fleet.mailbox.wait, "attacked", kind, 1, WARM_S + ATTACK_S + halt.STEP_S
    )
    return {
        "sent": int(sum(times[0] for times in said.values())),
        "recorded": {"wanted": HALTS * len(fleet.pids), "quiet": len(quiet), "beside": len(beside)},
        "quiet_ms": row_of(quiet),
        "beside_ms": row_of(beside),
        "cpu_share": [round(share, 2) for share in shares],
        "rss_mb_more": [
            round(_peak_mb(pid) - rss, 1) for pid, (rss, _) in zip(pids, before, strict=True)
        ],
        "descriptors_more": [now - count for now, (_, count) in zip(most, before, strict=True)],
    }


def _of_rounds(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    calm, storm = (
        row_of_rounds([one[name] for one in rounds]) for name in ("quiet_ms", "beside_ms")
    )
    worst = {
        name: [max(each) for each in zip(*(one[name] for one in rounds), strict=True)]
        for name in ("cpu_share", "rss_mb_more", "descriptors_more")
    }
    return {
        "sent": max(one["sent"] for one in rounds),
        "recorded": {
            name: min(one["recorded"][name] for one in rounds)
            for name in ("wanted", "quiet", "beside")
        },
        "quiet_ms": calm,
        "beside_ms": storm,
        "ratio_p99": round(storm["p99"] / calm["p99"], 2) if calm and storm else None,
    } | worst


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _start_attacker(fleet: halt.Fleet, number: int, flood: Flood) -> None:
    index = len(fleet.pids) + number
    identity = halt._home(fleet.site.folder.parent, index) / "identity.key"
    fleet.fork.fork(
        "attacker",
        number,
        mailbox=str(fleet.mailbox.path),
        key=str(identity),
        keyid=fleet.key.keyid,
        port=fleet.mirror_port,
        per_s=flood.per_s / ATTACKERS,
        seconds=flood.seconds,
        batch=flood.batch,
    )


async def _halts(fleet: halt.Fleet) -> list[float]:
    """How long each endpoint took to record each of some halts, in seconds."""
    spans: list[float] = []
    for _ in range(HALTS):
        done = await halt._halt(fleet, f"{halt.PRODUCT}==1")
        spans += since(done.begin, done.times, 1)
        await asyncio.sleep(PAUSE_S)
    return spans


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    kb = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return round(kb / 1024, 1)

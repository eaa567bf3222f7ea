"""The last activation of a halted product at endpoints that a partition keeps from hearing it.

* All endpoints switch between two releases that they hold, over and over, as long as the
  gates and their leases let them; nothing of what they may do is changed (restless.py).
* Then all packets between them and the origin are dropped, they among themselves go on talking,
  and the product is halted at the origin. T0 is when the halt is durable there.
* A fifth has right clocks, a fifth's wall clock is a year ahead, a fifth's a year behind, and of a
  fifth the boot-time clock jumps by 20 s, forwards or backwards, 5 s after T0. What python-tuf
  reads is the machine's own clock, so that metadata's dates keep nobody from switching.
* The last fifth stands still (SIGSTOP) from 5 s after T0 until its lease has run out; in the last
  round for `freeze_s`, if that is longer.
* It is cut when the youngest lease is fresh, so that the whole span of a lease is seen.

`activations_undone` were taken back in the same turn of the loop: the lease ran out meanwhile.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firedoor.cli.client.order_delivery import give
from firedoor.cli.demo.local_fleet import Site
from firedoor.halt.envelope import seal
from firedoor.halt.lease import STANDARD
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from tests.bench import halt
from tests.bench.fork_server import ForkServer
from tests.bench.loss import Place, begin_partition, end_partition, enter_namespace
from tests.bench.mailbox import Mailbox

YEAR_S = 365 * 86_400
JUMP_S = 20.0
JUMP_AFTER_S = 5.0
FROZEN = "frozen"
KINDS = ("right", "year-ahead", "year-behind", "boot-jump", FROZEN)
WALL_S = {"year-ahead": YEAR_S, "year-behind": -YEAR_S}

# halt/README.md, H6: what a switch that was let through may still take.
SLACK_S = 0.5
BOUND_S = STANDARD.start + SLACK_S
THAW_S = BOUND_S + 0.5
AFTER_THAW_S = 4.0

# Of all endpoints together; what two cores bear beside the rest.
SWITCHES_PER_S = 80.0

# The youngest lease is no older than this when its endpoint is cut off.
FRESH_S = 0.5

# Leases of all ages, and all endpoints switching.
WARM_S = 12.0
HEAL_S = 90.0


@dataclass(frozen=True, slots=True)
class Late:
    """What was activated after T0. `at`: seconds after it, by index and number of the switch.

    `stood_s`: how long the frozen fifth stood still.
    """

    at: Mapping[tuple[int, str], float]
    undone: int
    stood_s: float


def measure(folder: Path, *, agents: int, rounds: int, freeze_s: float) -> dict[str, Any]:
    """All figures; no process and no namespace is left."""
    place = enter_namespace(0)
    mailbox = Mailbox(folder / "mailbox")
    jumps = folder / "jumps"
    jumps.touch()
    kind = "restless"
    plan = halt.Plan(
        agents, rounds, 0, (), kind=kind, facts=lambda index: _facts(index, jumps, agents)
    )
    site = Site(folder / "site", mdns=())
    site.folder.mkdir()
    with ForkServer(folder / "log") as fork:

        async def story() -> dict[str, Any]:
            try:
                fleet = await halt._begin(site, plan, place, fork=fork, mailbox=mailbox)
                await halt._publish(site, "2", b"another small product")
                site.programs["origin"].address = f"{place.operator}:{fleet.port}"
                thaws = [THAW_S] * (rounds - 1) + [max(THAW_S, JUMP_AFTER_S + freeze_s)]
                lates = [await _round(fleet, place, jumps, thaw_s=each) for each in thaws]
                return _table(lates, agents)
            except BaseException:
                mailbox.close()
                halt._show_log(folder / "log")
                raise
            finally:
                end_partition()
                fork.end_all()
                await site.close()

        return asyncio.run(story())


def _facts(index: int, jumps: Path, agents: int) -> dict[str, object]:
    kind = _kind(index)
    sign = 1 if index // len(KINDS) % 2 else -1
    return {
        "wall_s": WALL_S.get(kind, 0),
        "jump_s": sign * JUMP_S if kind == "boot-jump" else 0.0,
        "jumps": str(jumps),
        "each_s": agents / SWITCHES_PER_S,
    }


def _kind(index: int) -> str:
    return KINDS[index % len(KINDS)]


# --- one partition -------------------------------------------------------------------------------


async def _round(fleet: halt.Fleet, place: Place, jumps: Path, *, thaw_s: float) -> Late:
    watch_s = thaw_s + AFTER_THAW_S
    await asyncio.sleep(WARM_S)
    await fleet.site.until("a lease is fresh", lambda: _is_fresh(fleet), halt.STEP_S)
    begin_partition(place, fleet.port)
    order = await _halt(fleet, place)
    status = await fleet.site.status("origin")
    assert status is not None
    (row,) = (each for each in status["orders"] if each["id"] == order)
    begin: float = row["recorded_at"]
    await asyncio.sleep(JUMP_AFTER_S)
    with jumps.open("ab") as file:
        file.write(b"+")
    frozen = [pid for index, pid in enumerate(fleet.pids) if _kind(index) == FROZEN]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(begin + thaw_s - Clock().now())
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(begin + watch_s - Clock().now())
    late = _late(fleet.mailbox, begin, watch_s, stood_s=thaw_s - JUMP_AFTER_S)
    end_partition()
    agents = len(fleet.pids)
    heard = await asyncio.to_thread(fleet.mailbox.wait, "recorded", order, agents, HEAL_S)
    if len(heard) < agents:
        raise SystemExit(f"only {len(heard)} of {agents} heard of the halt once healed")
    keys = [str(fleet.site.fleet / "keys" / f"resume-{number}.key") for number in (1, 2)]
    await fleet.site.firedoor(
        *("resume", order, "--reason", "the next round", "--to", f"{place.operator}:{fleet.port}"),
        *("--key", keys[0], "--key", keys[1]),
    )
    return late


async def _is_fresh(fleet: halt.Fleet) -> bool:
    for index in range(len(KINDS)):
        status = await fleet.site.status(halt._name(index))
        age = status["lease"]["age_s"] if status is not None else None
        if age is not None and 0 <= age < FRESH_S:
            return True
    return False


async def _halt(fleet: halt.Fleet, place: Place) -> str:
    """Halt the product at the origin; the order's id."""
    payload = HaltPayload(1, os.urandom(16), halt.PRODUCT, 4, Clock().unix(), "it is bad")
    keys = {fleet.key.keyid: fleet.key.signing_seed}
    order_id, order = seal("halt", payload, fleet=FleetId(fleet.key.fleet), keys=keys)
    client = PeerClient(credentials_of(fleet.key), Clock(), Budget(0))
    try:
        await give(client, (place.operator, fleet.port), order, order_id)
    finally:
        await client.close()
    return order_id.hex()


def _late(mailbox: Mailbox, begin: float, watch_s: float, *, stood_s: float) -> Late:
    def after(word: str) -> dict[tuple[int, str], float]:
        return {
            (index, label): times[0] - begin
            for label, said in mailbox.all_heard(word).items()
            for index, times in said.items()
            if begin < times[0] <= begin + watch_s
        }

    at = after("activated")
    return Late(at, len(after("undone")), stood_s)


def _table(lates: list[Late], agents: int) -> dict[str, Any]:
    last = dict.fromkeys(KINDS, 0.0)
    count = dict.fromkeys(last, 0)
    for late in lates:
        for (index, _), at in late.at.items():
            kind = _kind(index)
            count[kind] += 1
            last[kind] = round(max(last[kind], at), 3)
    return {
        "agents": agents,
        "rounds": len(lates),
        "longest_freeze_s": round(max(late.stood_s for late in lates), 1),
        "activations_after_t0": sum(count.values()),
        "activations_after_t0_by_clock": count,
        "activations_undone": sum(late.undone for late in lates),
        "endpoints_that_activated": len({index for late in lates for index, _ in late.at}),
        "last_activation_after_t0_s": max(last.values()),
        "last_activation_after_t0_s_by_clock": last,
        "bound_s": BOUND_S,
        "held": sum(count.values()) > 0 and max(last.values()) <= BOUND_S,
    }

"""`firedoor demo`: the main job on one machine, with real processes, mDNS and mTLS; and the proof.

Publish, install, publish again, pieces from peer to peer; a bad release that the fast half already
runs and the slow half still fetches; one command; nobody moves, activates or keeps it; a latecomer
takes nothing; a fixed release goes out. A promise that does not hold makes the exit code 1.
"""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from firedoor.cli.demo.content import Content, make_content
from firedoor.cli.demo.local_fleet import Program, Site, free_port, version_of
from firedoor.cli.demo.timeline import Timeline
from firedoor.errors import FiredoorError, Unavailable
from firedoor.identity import Role

# The capped half: slow enough that 24 MiB take longer than an operator, fast enough for a demo.
SLOW_BYTES_PER_S = 1_500_000

# The check notices the fault after a second; settle for two.
SETTLE_S = 2.0

# A receiver may still get what was in the kernel's queues of its connections when it was cut.
LEAK_BYTES_MAX = 256 * 1024

STEP_S = 40.0

# What a shell reports of a program that Ctrl-C ended.
INTERRUPTED = 130

# Below this a release is one request, and whoever brings it may be the only one that is asked.
SHARED_BYTES_MIN = 1 << 20
PRODUCT = "kiosk"


@dataclass(slots=True)
class Findings:
    """What the demo proves, as it goes to the JSON file."""

    endpoints: int
    payload_bytes: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    halt: dict[str, Any] = field(default_factory=dict)
    late_joiner: dict[str, int] = field(default_factory=dict)
    rolled_back: int = 0
    publish_to_last_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    def promise(self, text: str, *, holds: bool) -> None:
        """Note a promise that was broken."""
        if not holds:
            self.broken.append(text)

    def table(self) -> dict[str, Any]:
        """The JSON of the README."""
        return {
            "endpoints": self.endpoints,
            "payload_bytes": self.payload_bytes,
            "bytes": self.bytes,
            "publish_to_last_s": self.publish_to_last_s,
            "halt": self.halt,
            "late_joiner": self.late_joiner,
            "rolled_back": self.rolled_back,
            "broken": self.broken,
            "ok": not self.broken,
        }


def run_demo(
    endpoints: int, given: tuple[Path | None, Path | None, Path | None], out: Path | None
) -> int:
    """Run the demo; the exit code. Leaves no process and no folder behind, also when interrupted.

    Raises:
        Unavailable: a path that does not exist, or a file that cannot be written.
    """
    for path in given:
        if path is not None and not path.exists():
            raise Unavailable(str(path), why="no such file or folder")
    if out is not None:
        # Now, not after a minute.
        out.touch()
    findings = asyncio.run(_guarded(endpoints, given))
    if findings is None:
        return INTERRUPTED
    if out is not None:
        out.write_text(json.dumps(findings.table(), indent=2) + "\n", "utf-8")
    for text in findings.broken:
        Console(stderr=True).print(f"[bold red]broken promise:[/] {text}")
    return 1 if findings.broken else 0


async def _guarded(
    endpoints: int, given: tuple[Path | None, Path | None, Path | None]
) -> Findings | None:
    """Tell the story in a folder of its own; None: a signal ended it."""
    folder = Path(tempfile.mkdtemp(prefix="firedoor-demo-"))
    site = Site(folder)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    story = Story(site, endpoints, Timeline(Console(), time.monotonic))
    try:
        content = await make_content(folder, given)
        await story.tell(content)
    except FiredoorError as error:
        story.findings.broken.append(str(error))
    except asyncio.CancelledError:
        return None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A second signal must not stop the clean-up that the first one began.
            loop.add_signal_handler(number, lambda: None)
        await site.close()
        shutil.rmtree(folder, ignore_errors=True)
    return story.findings


class Story:
    """The demo, step by step."""

    def __init__(self, site: Site, endpoints: int, show: Timeline) -> None:
        self._site = site
        self._show = show
        self._fast = [f"fast-{number}" for number in range(1, (endpoints + 1) // 2 + 1)]
        self._slow = [f"slow-{number}" for number in range(1, endpoints // 2 + 1)]
        self.findings = Findings(endpoints)

    @property
    def _all(self) -> list[str]:
        return [*self._fast, *self._slow]

    async def tell(self, content: Content) -> None:
        """All of it; raises Unavailable when a step does not come to its end."""
        await self._set_up()
        self._show.step(f"Publish {PRODUCT} 1.0 ({content.source})")
        await self._publish("1.0", content.old)
        await self._everyone_runs("1.0")
        self._show.step("Publish 2.0: pieces go from peer to peer")
        before = await self._bytes()
        began = time.monotonic()
        await self._publish("2.0", content.new)
        await self._everyone_runs("2.0")
        self.findings.publish_to_last_s = round(time.monotonic() - began, 2)
        await self._note_bytes(before)
        await self._go_bad(content)
        await self._late_joiner()
        await self._mend(content)
        self._show.end(self.findings.broken)

    # --- steps ---------------------------------------------------------------------------------

    async def _set_up(self) -> None:
        site, show = self._site, self._show
        show.step("An origin, a site's mirror, and endpoints, each a process of its own")
        origin = f"127.0.0.1:{free_port()}"
        await site.init(origin, f"127.0.0.1:{free_port()}")
        await site.start("origin")
        mirror = self._program("mirror", Role.MIRROR, {"upstream": [origin]})
        await site.add(mirror)
        await site.start("mirror")
        programs = [self._endpoint(name) for name in [*self._all, "latecomer"]]
        await site.add_all(programs)
        await asyncio.gather(*(site.start(name) for name in self._all))
        show.say(f"{len(self._all)} endpoints found the mirror by mDNS on loopback")

    async def _go_bad(self, content: Content) -> None:
        site, show = self._site, self._show
        show.step("Publish 3.0, which is bad; half of the endpoints are on thin lines")
        await self._publish("3.0", content.bad)
        await site.firedoor(
            "publish", "manuals", "1.0", str(content.manuals), "--fleet", str(site.fleet)
        )
        await self._until("the fast half runs 3.0", self._is_fast_half_on_bad)
        await self._until("the slow half is in mid-transfer", self._is_slow_half_in_transfer)
        show.step("firedoor halt kiosk==3.0")
        fired = await self._halt()
        await self._until("everyone has recorded the halt", self._is_recorded)
        await self._until("the fast half is back on 2.0", self._is_fast_half_back)
        await self._until("the other product goes on to everyone", self._are_manuals_there)
        await self._note_halt(fired)

    async def _late_joiner(self) -> None:
        self._show.step("An endpoint that was off during the halt comes up")
        await self._site.start("latecomer")
        await self._until("it runs the newest release that is not halted", self._is_latecomer_on_2)
        status = await self._status("latecomer")
        bad = [row for row in status["releases"] if row["version"] == "3.0"]
        pieces = sum(row["pieces_have"] for row in bad)
        self.findings.late_joiner = {"bytes_of_halted": status["covered"]["bytes"]}
        holds = bool(bad) and not pieces and not status["covered"]["bytes"]
        self.findings.promise("the latecomer takes nothing of the halted release", holds=holds)

    async def _mend(self, content: Content) -> None:
        self._show.step("Publish 3.1, which is mended, and resume with two of three keys")
        await self._publish("3.1", content.fixed)
        keys = [str(self._site.fleet / "keys" / f"resume-{number}.key") for number in (1, 2)]
        order = next(row["id"] for row in (await self._status("mirror"))["orders"])
        mirror = self._site.programs["mirror"].address
        await self._site.firedoor(
            *("resume", order, "--reason", "mended in 3.1", "--to", mirror),
            *("--key", keys[0], "--key", keys[1]),
        )
        await self._everyone_runs("3.1", [*self._all, "latecomer"])

    async def _halt(self) -> float:
        key = str(self._site.fleet / "keys" / "halt-1.key")
        mirror = self._site.programs["mirror"].address
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        said = await self._site.firedoor(
            *("halt", f"{PRODUCT}==3.0", "--reason", "kiosks crash", "--level", "6"),
            *("--key", key, "--to", mirror),
        )
        for line in said.splitlines():
            self._show.say(line)
        return began

    # --- looking -------------------------------------------------------------------------------

    async def _note_halt(self, fired: float) -> None:
        statuses = await self._site.statuses([*self._all, "mirror", "origin"])
        rows = {name: each["orders"][0] for name, each in statuses.items()}
        # T0 is the moment at which the first peer closed: it had the signed order in its hands.
        first = min(row["closed_at"] for row in rows.values())
        closed = sorted((row["closed_at"] - first) * 1000 for row in rows.values())
        recorded = sorted((row["recorded_at"] - first) * 1000 for row in rows.values())
        covered = [statuses[name]["covered"] for name in self._all]
        last = max((row["last_at"] - first) * 1000 for row in covered)
        products = [row for name in self._all for row in statuses[name]["products"]]
        late = sum(row["activations_after_receipt"] for row in products)
        slow = [version_of(statuses[name], PRODUCT) for name in self._slow]
        leaked = max(row["bytes"] for row in covered)
        self.findings.rolled_back = sum(row["rolled_back"] for row in products)
        self.findings.halt = {
            "command_ms": round((first - fired) * 1000, 1),
            "closed_ms": _spread(closed),
            "recorded_ms": _spread(recorded),
            "last_covered_byte_ms": round(max(0.0, last), 1),
            "leaked_bytes_max": leaked,
            "activations_after_receipt": late,
        }
        self._show.halt(rows, first, self.findings.halt)
        promise = self.findings.promise
        promise("no activation after receipt", holds=late == 0)
        promise("the slow half never runs 3.0", holds=set(slow) == {"2.0"})
        promise("the fast half is taken back", holds=self.findings.rolled_back >= len(self._fast))
        promise(f"at most {LEAK_BYTES_MAX} bytes leak", holds=leaked <= LEAK_BYTES_MAX)

    async def _note_bytes(self, before: dict[str, int]) -> None:
        after = await self._bytes()
        moved = {kind: after[kind] - before[kind] for kind in after}
        self.findings.bytes = moved
        words = ("show", f"{PRODUCT}==2.0", "--fleet", str(self._site.fleet), "--json")
        self.findings.payload_bytes = json.loads(await self._site.firedoor(*words))["payload_bytes"]
        self._show.bytes(moved)
        is_large = moved["upstream"] >= SHARED_BYTES_MIN
        holds = moved["peers"] > 0 or not is_large
        self.findings.promise("pieces flow from peer to peer", holds=holds)

    async def _bytes(self) -> dict[str, int]:
        statuses = await self._site.statuses([*self._all, "mirror"])
        mirror = statuses.pop("mirror")
        return {
            "mirror": sum(each["bytes"]["mirror"] for each in statuses.values()),
            "peers": sum(each["bytes"]["peer"] for each in statuses.values()),
            "upstream": int(mirror["bytes"]["upstream"]),
        }

    async def _everyone_runs(self, version: str, names: list[str] | None = None) -> None:
        chosen = names or self._all

        async def holds() -> bool:
            statuses = await self._site.statuses(chosen)
            self._show.progress(
                version, {name: share_of(statuses.get(name), version) for name in chosen}
            )
            return all(_is_settled(statuses.get(name), version) for name in chosen)

        await self._until(f"everyone runs {version}", holds)

    async def _is_fast_half_on_bad(self) -> bool:
        statuses = await self._site.statuses(self._all)
        self._show.progress(
            "3.0", {name: share_of(statuses.get(name), "3.0") for name in self._all}
        )
        # A fast endpoint may already have failed its late check and gone back.
        return all(_has_had(statuses.get(name), "3.0") for name in self._fast)

    async def _is_slow_half_in_transfer(self) -> bool:
        statuses = await self._site.statuses(self._slow)
        return all(_is_in_transfer(each) for each in statuses.values())

    async def _is_recorded(self) -> bool:
        statuses = await self._site.statuses([*self._all, "mirror", "origin"])
        orders = [each["orders"] for each in statuses.values()]
        return len(orders) == len(self._all) + 2 and all(
            rows and rows[0]["recorded_at"] is not None for rows in orders
        )

    async def _is_fast_half_back(self) -> bool:
        statuses = await self._site.statuses(self._fast)
        return all(_is_settled(statuses.get(name), "2.0") for name in self._fast)

    async def _are_manuals_there(self) -> bool:
        statuses = await self._site.statuses(self._all)
        return all(version_of(statuses.get(name), "manuals") == "1.0" for name in self._all)

    async def _is_latecomer_on_2(self) -> bool:
        return _is_settled(await self._site.status("latecomer"), "2.0")

    async def _status(self, name: str) -> dict[str, Any]:
        status = await self._site.status(name)
        if status is None:
            raise Unavailable(name, why="it does not answer")
        return status

    async def _publish(self, version: str, tree: Path) -> None:
        python = "python3"
        await self._site.firedoor(
            *("publish", PRODUCT, version, str(tree), "--fleet", str(self._site.fleet)),
            *("--check", f"{python} check.py"),
        )

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        await self._site.until(what, holds, STEP_S)
        self._show.say(what)

    def _endpoint(self, name: str) -> Program:
        folder = self._site.folder / name
        products = {
            each: {"root": str(folder / "roots" / each), "settle_s": SETTLE_S}
            for each in (PRODUCT, "manuals")
        }
        # All of the demo is one person's: it needs no second user, and may have none.
        options: dict[str, Any] = {"products": products, "checks_run_as_agent": True}
        if name.startswith("slow"):
            options["limits"] = {"receive_bytes_per_s": SLOW_BYTES_PER_S}
        return self._program(name, Role.AGENT, options)

    def _program(self, name: str, role: Role, options: dict[str, Any]) -> Program:
        address = f"127.0.0.1:{free_port()}"
        return Program(name, role, address, self._site.folder / name, options=options)


def _product(status: dict[str, Any] | None) -> dict[str, Any]:
    rows = (status or {}).get("products", [])
    found: dict[str, Any] = next((row for row in rows if row["product"] == PRODUCT), {})
    return found


def _is_settled(status: dict[str, Any] | None, version: str) -> bool:
    row = _product(status)
    return row.get("version") == version and row.get("phase") == "idle"


def _has_had(status: dict[str, Any] | None, version: str) -> bool:
    row = _product(status)
    return row.get("version") == version or row.get("rolled_back", 0) > 0


def share_of(status: dict[str, Any] | None, version: str) -> float:
    """How much of a release of the demo's product is at an endpoint, from 0 to 1."""
    rows = [
        row
        for row in (status or {}).get("releases", [])
        if (row["product"], row["version"]) == (PRODUCT, version) and row["pieces_total"]
    ]
    return rows[0]["pieces_have"] / rows[0]["pieces_total"] if rows else 0.0


def _is_in_transfer(status: dict[str, Any]) -> bool:
    return 0 < share_of(status, "3.0") < 1


def _spread(sorted_ms: list[float]) -> dict[str, float]:
    def at(share: float) -> float:
        return round(sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))], 1)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(sorted_ms[-1], 1)}

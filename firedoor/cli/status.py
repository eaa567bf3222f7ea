"""`firedoor status`: the fleet as one person can take it in."""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.peer_search import peers_to_try
from firedoor.cli.client.peer_status import Answer, Endpoint, Order, PeerStatus, Product, Release
from firedoor.cli.client.requests import first_status, with_client
from firedoor.errors import Malformed
from firedoor.halt.order import LEVEL_MAX, LEVEL_NARROW, NARROW
from firedoor.halt.scope import ScopeKind, parse_scope
from firedoor.identity import Place
from firedoor.runtime.network.peer_client import PeerClient

# What an agent says of a release that it could run and may not; the rest is for that machine alone.
_HELD_BACK = re.compile(r"(\S+) is held back: ([^(;]*[^(; ])")

# Contents of one halt that are shown; people name none.
_SHOWN_MAX = 8

_FIND_S = 2.0

# What was not drilled within this is not known to work (halt/README.md, Proof).
DRILL_SPAN_S = 30 * 86400

# An endpoint reports at least every 30 s (agent/daemon.py); two in a row missed is silence.
SILENT_S = 75

# The order in which a person must look: what is wrong first.
_RANKS = {"NEVER HEARD": 0, "SILENT": 1, "GONE": 2, "behind": 3, "": 4}
_STYLES = {"NEVER HEARD": "yellow", "SILENT": "bold red", "GONE": "red", "behind": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One product of one endpoint. `mark`: what is wrong, empty when nothing is."""

    site: str
    endpoint: str
    product: str
    version: str
    state: str
    mark: str


def show_status(key_file: tuple[Path, Path | None], to: list[str], *, is_json: bool) -> None:
    """Ask one peer and show what it says.

    Raises:
        Unavailable: nobody answers.
    """
    key = open_key(*key_file)

    async def ask(client: PeerClient) -> Answer:
        addresses = await peers_to_try(client, key, to, _FIND_S)
        return await first_status(client, addresses)

    answer = with_client(key, ask)
    if is_json:
        say(json.dumps(answer.table, indent=2))
        return
    status = answer.status
    for line in (
        *lines_of(status),
        *versions_of(status),
        *held_back_of(status),
        *bound_of(status),
        *drills_of(status, time.time()),
    ):
        say(line)
    rows = rows_of(status, now=time.time())
    if rows:
        # A pipe gets every column whole; a screen as much as it is wide.
        console = Console()
        console.print(_table(rows), soft_wrap=not console.is_terminal)


def lines_of(status: PeerStatus) -> list[str]:
    """Who speaks, what is halted, and how many endpoints are in which state."""
    lines = [f"{status.role} {status.id[:12]} at {status.site}"]
    if not status.is_reconciled:
        lines.append("it has NOT synced orders since its start: what it says of halts may be old")
    if not status.is_trust_fresh:
        lines.append("its signed metadata is past its dates, or its clock is wrong")
    in_force = [row for row in status.orders if row.is_in_force]
    halts = [row for row in in_force if row.kind in {"halt", "controller-halt"}]
    for row in halts:
        lines += _halt_lines(row, status)
    if not halts:
        lines.append("nothing is halted")
    return lines


def _halt_lines(row: Order, status: PeerStatus) -> list[str]:
    named = "committed by the origin" if row.is_named else "NOT yet committed by the origin"
    if row.kind == "controller-halt":
        named = "by a release's controller, so no lease waits for it"
    holders, total = sum(row.id in each.orders for each in status.endpoints), len(status.endpoints)
    lines = [
        f"HALTED {row.scope} at level {row.level}: {row.reason}",
        f"  {row.id[:16]}, {named}, recorded by {holders} of {total} endpoint(s)",
    ]
    lines += [f"  and of whatever has content {each[:16]}" for each in row.contents[:_SHOWN_MAX]]
    return [*lines, *_lowered_lines(row, status)]


def _lowered_lines(row: Order, status: PeerStatus) -> list[str]:
    """For which releases the level in effect is not the one that was signed, and why."""
    with suppress(Malformed):
        scope = parse_scope(row.scope)
        able = [each for each in status.releases if each.level_lowered >= row.level]
        return [
            f"  level {each.level} for {each.product} {each.version}: one key signed it, and a"
            " release with other bytes was newer"
            for each in able
            if scope.covers(each.subject, (), Place())
        ]
    return []


def bound_of(status: PeerStatus) -> list[str]:
    """What time bound holds for machines that a halt does not reach, and who is banned."""
    if status.lease is None:
        return []
    start, move = status.lease.start_s, status.lease.move_s
    lines = [
        f"leases here: {start:g} s to start an install or activation, {move:g} s to move pieces",
        f"  so {start:g} s after the origin committed a halt no machine with these terms can newly",
        "  activate what it covers; a certificate has the bound of each",
    ]
    lifted = {each for row in status.orders if row.kind == "resume" for each in row.halts}
    bans = [row for row in status.orders if row.kind == "ban" and row.id not in lifted]
    names = ", ".join(row.peer[:12] for row in bans)
    return [*lines, *([f"banned: {names}"] if bans else [])]


def versions_of(status: PeerStatus) -> list[str]:
    """How many endpoints run which version of the agent."""
    said = Counter(each.version for each in status.endpoints)
    unknown = said.pop("", 0)
    words = [f"{count} run {version}" for version, count in sorted(said.items())]
    words += [f"{unknown} have not said it, as 0.1 does not"] if unknown and said else []
    return [f"agents: {', '.join(words)}"] if words else []


def held_back_of(status: PeerStatus) -> list[str]:
    """How many machines hold which release back, and why: a setting of theirs is missing."""
    found: Counter[tuple[str, str, str]] = Counter()
    for endpoint in status.endpoints:
        for each in endpoint.products:
            held = _HELD_BACK.match(each.detail)
            if held is not None:
                found[each.product, held[1], held[2]] += 1
    return [
        f"{count} machine{'s hold' if count > 1 else ' holds'} {product} {version} back: {why}"
        for (product, version, why), count in sorted(found.items())
    ]


def drills_of(status: PeerStatus, now: float) -> list[str]:
    """Which scopes and levels were drilled lately, and which were not."""
    rows = [row for row in status.orders if row.kind == "drill"]
    recent = [row for row in rows if now - row.issued_at <= DRILL_SPAN_S]
    cells = {(kind, row.level) for row in recent if (kind := _kind_of(row.scope)) is not None}
    every = [(kind, level) for kind in ScopeKind for level in _levels(kind)]
    lines = [f"drilled in the last 30 days: {len(cells & set(every))} of {len(every)} cells"]
    for kind in ScopeKind if cells else ():
        words = [f"{level}" if (kind, level) in cells else "-" for level in _levels(kind)]
        lines.append(f"  {kind.value:10} {' '.join(words)}")
    return lines


def _kind_of(scope: str) -> ScopeKind | None:
    """The kind of a scope; None: this version does not know it."""
    with suppress(Malformed):
        return parse_scope(scope).kind
    return None


def _levels(kind: ScopeKind) -> range:
    return range(1, (LEVEL_MAX if kind in NARROW else LEVEL_NARROW - 1) + 1)


def rows_of(status: PeerStatus, now: float) -> list[Row]:
    """One row for each product of each endpoint, what is wrong first."""
    newest = _newest(status.releases)
    if status.role == "agent":
        return _rows((status.id, status.site), status.products, "", newest)
    rows: list[Row] = []
    for each in status.endpoints:
        rows += _rows((each.id, each.site), each.products, _silence(each, now), newest)
    return sorted(rows, key=lambda row: (_RANKS[row.mark], row.site, row.endpoint, row.product))


def _rows(
    who: tuple[str, str], products: Sequence[Product], silence: str, newest: dict[str, str]
) -> list[Row]:
    name, site = who[0][:12], who[1]
    rows = []
    for each in products:
        wanted = newest.get(each.product, each.version)
        mark = silence or ("" if each.version == wanted else "behind")
        detail = f": {each.detail}" if each.detail else ""
        version, state = each.version or "nothing", f"{each.phase}{detail}"
        rows.append(Row(site, name, each.product, version, state, mark))
    return rows or [Row(site, name, "", "", "", silence)]


def _silence(endpoint: Endpoint, now: float) -> str:
    if not endpoint.seen_at:
        return "NEVER HEARD"
    if now - endpoint.seen_at > SILENT_S:
        return "SILENT"
    return "" if endpoint.is_connected else "GONE"


def _table(rows: list[Row]) -> Table:
    table = Table("site", "endpoint", "product", "version", "state", "", box=None, pad_edge=False)
    for row in rows:
        cells = (row.site, row.endpoint, row.product, row.version, row.state)
        # As text: a bracket in a name is no markup.
        table.add_row(*map(Text, cells), Text(row.mark, _STYLES.get(row.mark, "")))
    return table


def _newest(releases: Sequence[Release]) -> dict[str, str]:
    able = [row for row in releases if row.level == 0]
    return {row.product: row.version for row in sorted(able, key=_counter)}


def _counter(row: Release) -> int:
    return row.counter

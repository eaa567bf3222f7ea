"""`firedoor status`: the fleet as one person can take it in."""

import json
import time
from pathlib import Path
from typing import Any

from firedoor.cli.common import first_status, open_key, peers_to_try, say, with_client
from firedoor.runtime.peer_client import PeerClient

_FIND_S = 2.0

# An endpoint reports at least every 30 s (agent/daemon.py); two in a row missed is silence.
SILENT_S = 75


def show_status(key_file: tuple[Path, Path | None], to: list[str], *, is_json: bool) -> None:
    """Ask one peer and show what it says.

    Raises:
        Unavailable: nobody answers.
    """
    key = open_key(*key_file)

    async def ask(client: PeerClient) -> dict[str, Any]:
        addresses = await peers_to_try(key, to, _FIND_S)
        return await first_status(client, addresses)

    status = with_client(key, ask)
    if is_json:
        say(json.dumps(status, indent=2))
    else:
        for line in lines_of(status, now=time.time()):
            say(line)


def lines_of(status: dict[str, Any], now: float) -> list[str]:
    """A status as lines for a person: halts first, then products, then who is silent."""
    lines = [f"{status['role']} {status['id'][:12]} at {status['site']}"]
    halts = [row for row in status["orders"] if row.get("is_in_force")]
    for row in halts:
        named = "logged by the origin" if row["is_named"] else "NOT yet logged by the origin"
        holders = sum(row["id"] in each["orders"] for each in status.get("endpoints", ()))
        lines.append(f"HALTED {row['scope']} at level {row['level']}: {row['reason']}")
        lines.append(f"  {row['id'][:16]}, {named}, recorded by {holders} endpoint(s)")
    if not halts:
        lines.append("nothing is halted")
    newest = _newest(status["releases"])
    for endpoint in status.get("endpoints", ()):
        silent = now - endpoint["seen_at"] > SILENT_S
        mark = "SILENT " if silent else ""
        lines.append(f"{mark}{endpoint['id'][:12]} {endpoint['site']}")
        for row in endpoint["products"]:
            behind = "" if row["version"] == newest.get(row["product"]) else " (behind)"
            text = f"  {row['product']} {row['version'] or 'nothing'}{behind} {row['phase']}"
            lines.append(text + (f": {row['detail']}" if row["detail"] else ""))
    return lines


def _newest(releases: list[dict[str, Any]]) -> dict[str, str]:
    able = [row for row in releases if row["level"] == 0]
    return {row["product"]: row["version"] for row in sorted(able, key=lambda row: row["counter"])}

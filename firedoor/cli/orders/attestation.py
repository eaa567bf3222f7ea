"""`firedoor attestation`: who has recorded and enforced a halt, live and as a file.

What the origin sends is checked here before it is shown or written, as `verify` checks it offline.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.order_delivery import check_wait
from firedoor.cli.client.origin import Origin, origin_of
from firedoor.cli.client.peer_status import Order
from firedoor.cli.client.requests import status_at, with_client
from firedoor.errors import Malformed, Untrusted
from firedoor.halt.attestation import Attestation, AttestationFile, Row, Standing, check, read_file
from firedoor.identity import FleetId
from firedoor.limits import CERTIFICATE_BYTES_MAX, METADATA_BYTES_MAX
from firedoor.runtime.files import PUBLIC_MODE, durable_write
from firedoor.runtime.folders import read_named
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.terminal import plain
from firedoor.trust.keys import Authority, authority_of, register
from firedoor.units import UnixTime

# How often a spreading halt is looked at.
_LOOK_S = 0.5

_WHOLE = 64
_ROWS_SHOWN = 20


def watch_halt(
    halt: str, key_file: tuple[Path, Path | None], *, out: Path | None, wait_s: float, is_json: bool
) -> None:
    """Show the attestation of a halt until all have enforced it or `wait_s` is over; write it.

    `halt`: its id or the beginning of it; empty for the newest in force.

    Raises:
        Malformed: no such halt, or `out` exists.
        Unavailable, Untrusted: the origin does not answer, or its attestation does not verify.
    """
    check_wait(wait_s)
    if out is not None and out.exists():
        raise Malformed("--out", wanted="a new file", got=f"{out}, which exists")
    key = open_key(*key_file)

    async def work(client: PeerClient) -> tuple[bytes, Attestation]:
        address = origin_of(key)
        origin = Origin(client, address)
        root = await origin.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
        if fleet_of(root) != key.fleet:
            raise Untrusted("origin", wanted=f"fleet {key.fleet[:12]}", got="another")
        order = await _halt_id(client, address, halt)
        deadline = asyncio.get_running_loop().time() + wait_s
        last = ""
        while True:
            data = await origin.get(f"/v1/certificate/{order}", CERTIFICATE_BYTES_MAX)
            found = checked(data, root)
            line = _line(found)
            if line != last and not is_json:
                say(line)
                last = line
            is_done = found.count(Standing.ENFORCED) == len(found.rows)
            if is_done or asyncio.get_running_loop().time() >= deadline:
                return data, found
            await asyncio.sleep(_LOOK_S)

    data, found = with_client(key, work)
    if out is not None:
        durable_write(out, data, PUBLIC_MODE)
    _show(found, is_json=is_json)


def verify_file(file: Path, root: Path, *, is_json: bool) -> None:
    """Check an attestation against the fleet's first root.json, with no network, and show it.

    Raises:
        Unavailable: a file cannot be read.
        TooLarge, Malformed, Untrusted: it does not verify.
    """
    data, first = read_named(file, CERTIFICATE_BYTES_MAX), read_named(root, METADATA_BYTES_MAX)
    _show(checked(data, first), is_json=is_json)


def checked(data: bytes, root: bytes) -> Attestation:
    """The attestation in a file, by the keys to which the fleet's first root leads.

    Raises:
        TooLarge, Malformed, Untrusted: it does not verify.
    """
    register()
    file = read_file(data)
    return check(file, _authority(file, root))


def _authority(file: AttestationFile, first: bytes) -> Authority:
    fleet = fleet_of(first)
    try:
        root = Metadata[Root].from_bytes(first)
        for later in file.roots:
            fresh = Metadata[Root].from_bytes(later)
            if fresh.signed.version != root.signed.version + 1:
                raise Untrusted("attestation's roots", wanted="one after the other", got="a gap")
            root.signed.verify_delegate("root", fresh.signed_bytes, fresh.signatures)
            fresh.signed.verify_delegate("root", fresh.signed_bytes, fresh.signatures)
            root = fresh
        targets = Metadata[Targets].from_bytes(file.targets)
    except (RepositoryError, UnsignedMetadataError, ValueError) as error:
        got = str(error)[:200]
        raise Untrusted("attestation's metadata", wanted="root's signatures", got=got) from error
    return authority_of(root, targets, fleet=FleetId(fleet), now=UnixTime(0))


async def _halt_id(client: PeerClient, address: tuple[str, int], text: str) -> str:
    if len(text) == _WHOLE:
        return text
    rows = (await status_at(client, address)).status.orders
    halts = [row for row in rows if row.kind in {"halt", "controller-halt", "drill"}]
    found = [row for row in halts if row.id.startswith(text)]
    if not text:
        found = sorted((row for row in found if row.is_in_force), key=_issued_at)[-1:]
    if len(found) != 1:
        raise Malformed("halt id", wanted="the beginning of exactly one", got=f"{len(found)}")
    if len(found[0].id) != _WHOLE:
        raise Malformed("halt id", wanted="64 hex digits from the origin", got=found[0].id)
    return found[0].id


def _issued_at(row: Order) -> int:
    return row.issued_at


def _line(found: Attestation) -> str:
    words = [f"{found.count(Standing.ENFORCED)} enforced"]
    words += [f"{found.count(Standing.RECORDED)} recorded"]
    silent = found.count(Standing.PAST_BOUND, Standing.WITHIN_BOUND)
    words += [f"{silent} silent, {found.count(Standing.PAST_BOUND)} of them past their bound"]
    words += [f"{found.count(Standing.UNKNOWN)} never heard of"]
    return f"of {len(found.rows)} endpoints: {', '.join(words)}"


def _show(found: Attestation, *, is_json: bool) -> None:
    clones = [row for row in found.rows if row.is_clone]
    if is_json:
        table = {
            "order": found.halt.id.hex(),
            "kind": found.halt.kind,
            "scope": found.halt.scope.text,
            "level": found.halt.level,
            "logged_at": found.logged_at,
            "made_at": found.made_at,
            "expected": len(found.rows),
            "enforced": found.count(Standing.ENFORCED),
            "recorded": found.count(Standing.ENFORCED, Standing.RECORDED),
            "silent_past_bound": found.count(Standing.PAST_BOUND),
            "silent_within_bound": found.count(Standing.WITHIN_BOUND),
            "unknown": found.count(Standing.UNKNOWN),
            "clones": [row.endpoint for row in clones],
            "endpoints": [_table(row) for row in found.rows],
        }
        say(json.dumps(table, indent=2))
        return
    halt = found.halt
    say(f"{halt.kind} {plain(halt.scope.text)} at level {halt.level}: {plain(halt.reason)}")
    say(_line(found))
    rest = [row for row in found.rows if row.standing is not Standing.ENFORCED]
    for line in _lines(rest):
        say(line)
    for row in clones:
        say(f"  {row.endpoint[:12]} at {plain(row.site)}: TWO live machines have this identity")


def _lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows[:_ROWS_SHOWN]:
        last = f"; last known: {plain(row.last)}" if row.last else ""
        lines.append(f"  {row.endpoint[:12]} at {plain(row.site)}: {row.standing.value}{last}")
    more = len(rows) - _ROWS_SHOWN
    return [*lines, *([f"  and {more} more; --json lists all"] if more > 0 else [])]


def _table(row: Row) -> dict[str, object]:
    return {
        "id": row.endpoint,
        "site": row.site,
        "standing": row.standing.name.lower(),
        "had": row.had,
        "last": row.last,
        "is_clone": row.is_clone,
    }

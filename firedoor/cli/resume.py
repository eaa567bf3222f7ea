"""`firedoor resume`: lift halts with m signatures, gathered on one machine or on several."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from firedoor.cli.common import first_status, open_key, peers_to_try, say, with_client
from firedoor.cli.handing import check_wait, hand_over
from firedoor.errors import Malformed, Unavailable
from firedoor.halt.envelope import Envelope, Signature, id_of
from firedoor.halt.order import ResumePayload
from firedoor.identity import FleetId
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write
from firedoor.runtime.key_files import KeyFile
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.screen import plain
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode

_FIND_S = 2.0

_ID = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Lift:
    """What `resume` was asked for. `combine`: files of part-signed resumes."""

    halts: tuple[str, ...]
    reason: str
    combine: tuple[Path, ...]
    sign_only: Path | None


def lift_halts(
    lift: Lift, key_files: tuple[list[Path], Path | None], *, to: list[str], wait_s: float
) -> None:
    """Make or complete a resume; write it, or hand it over.

    Raises:
        Malformed: no key, an id that is no halt's, or parts of different resumes.
        Unavailable: no peer answers, or none recorded it (too few signatures, for one).
    """
    keys = [open_key(path, key_files[1]) for path in key_files[0]]
    if not keys:
        raise Malformed("--key", wanted="a key file (it also opens the connection)", got="none")
    for key in keys:
        if key.role != "resume":
            raise Malformed(key.name, wanted="a key of role resume", got=key.role)

    if lift.combine and (lift.halts or lift.reason):
        wanted = "parts that say which halts and why, or ids and --reason"
        raise Malformed("--combine", wanted=wanted, got="both")
    if lift.sign_only is not None and lift.sign_only.exists():
        got = f"{lift.sign_only}, which exists"
        raise Malformed("--sign-only", wanted="a new file", got=got)
    check_wait(wait_s)

    async def work(client: PeerClient) -> None:
        addresses = await peers_to_try(keys[0], to, _FIND_S)
        parts = [_read_part(path) for path in lift.combine]
        envelope = _combined(parts) if parts else await _new(client, addresses, lift)
        _show(envelope)
        envelope = _signed(envelope, keys)
        order = id_of(FleetId(keys[0].fleet), envelope), encode(envelope)
        if lift.sign_only is not None:
            durable_write(lift.sign_only, order[1])
            say(f"part-signed {order[0].hex()} with {len(envelope.signatures)} key(s)")
            return
        say(f"signed {order[0].hex()} with {len(envelope.signatures)} key(s)")
        await hand_over(client, addresses, order, wait_s)

    with_client(keys[0], work)


async def _new(client: PeerClient, addresses: list[tuple[str, int]], lift: Lift) -> Envelope:
    if not lift.halts:
        raise Malformed(
            "halts", wanted="the id of a halt, as `firedoor status` shows it", got="none"
        )
    ids = list(lift.halts)
    wrong = next((text for text in ids if _ID.fullmatch(text) is None), None)
    if wrong is not None:
        raise Malformed("halt id", wanted="up to 64 hex digits", got=repr(wrong[:80]))
    if any(len(text) != 64 for text in ids):  # noqa: PLR2004  # a short id is looked up
        status = await first_status(client, addresses)
        known = [row["id"] for row in status["orders"] if row["kind"] == "halt"]
        ids = [_whole(text, known) for text in ids]
    payload = ResumePayload(
        version=1,
        nonce=os.urandom(16),
        halts=tuple(bytes.fromhex(text) for text in ids),
        issued_at=Clock().unix(),
        reason=lift.reason,
    )
    return Envelope("resume", encode(payload), ())


def _show(envelope: Envelope) -> None:
    """What is about to be signed: nobody should lift a halt blindly."""
    payload = decode(ResumePayload, envelope.payload, what="resume", limit=ORDER_BYTES_MAX)
    for halt in payload.halts:
        say(f"lifts {halt.hex()}")
    say(f"  because: {plain(payload.reason) or 'no reason given'}")


def _whole(text: str, known: list[str]) -> str:
    found = [each for each in known if each.startswith(text)]
    if len(found) != 1:
        raise Malformed(
            "halt id", wanted="the beginning of exactly one", got=f"{text}: {len(found)}"
        )
    return found[0]


def _read_part(path: Path) -> Envelope:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or "cannot be read") from error
    return decode(Envelope, data, what=str(path), limit=ORDER_BYTES_MAX)


def _combined(parts: list[Envelope]) -> Envelope:
    first = parts[0]
    if any(part.kind != "resume" or part.payload != first.payload for part in parts):
        raise Malformed("--combine", wanted="parts of one resume", got="different ones")
    signatures = {each.keyid: each for part in parts for each in part.signatures}
    return replace(first, signatures=tuple(signatures.values()))


def _signed(envelope: Envelope, keys: list[KeyFile]) -> Envelope:
    message = signed_bytes(FleetId(keys[0].fleet), envelope.kind, envelope.payload)
    signatures = {each.keyid: each for each in envelope.signatures}
    for key in keys:
        signatures[key.keyid] = Signature(key.keyid, sign(key.signing_seed, message))
    return replace(envelope, signatures=tuple(signatures.values()))

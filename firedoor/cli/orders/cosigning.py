"""Orders that take several signatures, gathered on one machine or by file on several.

What is signed is shown, and with `--sign-only` nothing has happened yet when it is. A part-signed
order is a file; it never reaches a peer before it is whole, for peers refuse it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from firedoor.cli.client.answers import say
from firedoor.cli.client.evidence import Evidence
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.order_delivery import check_wait, each_of, hand_over
from firedoor.cli.client.peer_search import peers_to_try
from firedoor.cli.client.requests import with_client
from firedoor.errors import Malformed
from firedoor.halt.envelope import Envelope, Signature, id_of, role_of
from firedoor.identity import FleetId
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.runtime.files import PUBLIC_MODE, durable_write
from firedoor.runtime.folders import read_named
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode

_FIND_S = 2.0


@dataclass(frozen=True, slots=True)
class SigningSession:
    """How the signatures come together. `combine`: files of part-signed orders.

    `sign_only`: write a part-signed order there instead of handing it over; `is_blind`: sign for
    ids whose records nobody shows.
    """

    keys: tuple[Path, ...]
    passphrase_file: Path | None
    combine: tuple[Path, ...]
    sign_only: Path | None
    is_blind: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """An order to be signed. `make` gives its payload; `show` says in lines what it would do.

    Both go by signed records (client/evidence.py), and `show` by the very bytes that are signed.
    """

    kind: str
    make: Callable[[PeerClient, Evidence], Awaitable[object]]
    show: Callable[[bytes, Evidence], Awaitable[list[str]]]


def cosign(draft: Draft, gathering: SigningSession, *, to: list[str], wait_s: float) -> None:
    """Make or complete an order; write it, or hand it over.

    Raises:
        Malformed: no key, keys of another role, or parts of different orders.
        Unavailable: no peer answers, or none recorded it (too few signatures, for one).
    """
    keys = _keys(gathering, role_of(draft.kind))
    if gathering.sign_only is not None and gathering.sign_only.exists():
        got = f"{gathering.sign_only}, which exists"
        raise Malformed("--sign-only", wanted="a new file", got=got)
    check_wait(wait_s)

    async def work(client: PeerClient) -> None:
        addresses = await peers_to_try(client, keys[0], to, _FIND_S)
        fleet = FleetId(keys[0].fleet)
        evidence = Evidence(client, addresses, fleet, is_blind=gathering.is_blind)
        parts = [_read_part(path, draft.kind) for path in gathering.combine]
        if parts:
            envelope = _combined(parts)
        else:
            payload = await draft.make(client, evidence)
            envelope = Envelope(draft.kind, encode(payload), ())
        for line in await draft.show(envelope.payload, evidence):
            say(line)
        envelope = _signed(envelope, keys)
        order = id_of(FleetId(keys[0].fleet), envelope), encode(envelope)
        count = len(envelope.signatures)
        if gathering.sign_only is not None:
            durable_write(gathering.sign_only, order[1], PUBLIC_MODE)
            say(f"part-signed {order[0].hex()} with {count} key(s)")
            return
        say(f"signed {order[0].hex()} with {count} key(s)")
        await hand_over(client, each_of(addresses), order, wait_s)

    with_client(keys[0], work)


def _keys(gathering: SigningSession, role: str) -> list[KeyFile]:
    if not gathering.keys:
        raise Malformed("--key", wanted="a key file (it also opens the connection)", got="none")
    keys = [open_key(path, gathering.passphrase_file) for path in gathering.keys]
    for key in keys:
        if key.role != role:
            raise Malformed(key.name, wanted=f"a key of role {role}", got=key.role)
    return keys


def _read_part(path: Path, kind: str) -> Envelope:
    data = read_named(path, ORDER_BYTES_MAX)
    part = decode(Envelope, data, what=str(path), limit=ORDER_BYTES_MAX)
    if part.kind != kind:
        raise Malformed(str(path), wanted=f"a {kind}", got=repr(part.kind))
    return part


def _combined(parts: list[Envelope]) -> Envelope:
    first = parts[0]
    if any(part.payload != first.payload for part in parts):
        raise Malformed("--combine", wanted=f"parts of one {first.kind}", got="different ones")
    signatures = {each.keyid: each for part in parts for each in part.signatures}
    return replace(first, signatures=tuple(signatures.values()))


def _signed(envelope: Envelope, keys: list[KeyFile]) -> Envelope:
    message = signed_bytes(FleetId(keys[0].fleet), envelope.kind, envelope.payload)
    signatures = {each.keyid: each for each in envelope.signatures}
    for key in keys:
        signatures[key.keyid] = Signature(key.keyid, sign(key.signing_seed, message))
    whole = replace(envelope, signatures=tuple(signatures.values()))
    # Peers would refuse it after all have signed.
    decode(Envelope, encode(whole), what=envelope.kind, limit=ORDER_BYTES_MAX)
    return whole

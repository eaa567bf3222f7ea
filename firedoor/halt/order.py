"""Orders and beacons as signed bytes: how they are made, and what they prove.

* An envelope is `{kind, payload, signatures}`. The signature covers fleet, kind and payload, so an
  order of one fleet or kind is never one of another.
* The id is the digest of exactly the signed bytes; more signatures make no new order.
* A payload that a *valid halt signature* covers but that this version cannot read is a halt of
  everything at level 4: doubt stops. The same bytes unsigned are junk and count as nothing.

Nothing here keeps state; orderset.py does. Source: halt.md, Records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from firedoor.errors import FiredoorError, Malformed, TooLarge, Untrusted
from firedoor.halt.scope import Scope, ScopeKind, parse_scope
from firedoor.identity import FleetId
from firedoor.limits import (
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    REASON_BYTES_MAX,
    RESUMED_IDS_MAX,
    SIGNATURES_MAX,
)
from firedoor.trust.keys import Authority
from firedoor.trust.signing import sign, signed_bytes, verified_keyids
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Digest

LEVEL_MAX = 6
"""The highest level of this version; 7 needs the boot guard."""

LEVEL_IN_DOUBT = 4

# Which role signs a kind of record, where the two do not have one name.
_ROLE_OF = {"lease": "beacon"}

# Quarantine and roll back change what an endpoint runs; a wide one could push a fleet onto an old
# hole, so they take a scope that names bytes (halt.md, Authority).
LEVEL_NARROW = 5

# A beacon lists every id of the set.
_BEACON_BYTES_MAX = ORDERS_MAX * 40 + ORDER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class HaltPayload:
    """What a halt's signature covers.

    `contents`: content digests, for signers that resolve them from signed metadata; our own command
    leaves that to each node.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    scope: Annotated[str, Meta(max_length=160)]
    level: Annotated[int, Meta(ge=1, le=LEVEL_MAX)]
    issued_at: Annotated[int, Meta(ge=0)]
    reason: Annotated[str, Meta(max_length=REASON_BYTES_MAX)]
    contents: Annotated[tuple[Digest, ...], Meta(max_length=4)] = ()


@dataclass(frozen=True, slots=True)
class ResumePayload:
    """What a resume's signatures cover."""

    version: Annotated[int, Meta(ge=1, le=1)]
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    halts: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=RESUMED_IDS_MAX)]
    issued_at: Annotated[int, Meta(ge=0)]
    reason: Annotated[str, Meta(max_length=REASON_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class BeaconPayload:
    """What the origin has recorded, by name."""

    version: Annotated[int, Meta(ge=1, le=1)]
    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature and the id of the key that made it."""

    keyid: Annotated[str, Meta(max_length=64)]
    value: Annotated[bytes, Meta(min_length=64, max_length=64)]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed record as it travels."""

    kind: Annotated[str, Meta(max_length=16)]
    payload: bytes
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=SIGNATURES_MAX)]


@dataclass(frozen=True, slots=True)
class Halt:
    """A verified halt. `is_doubtful`: signed rightly, but not understood."""

    id: bytes
    record: bytes
    signers: frozenset[str]
    scope: Scope
    level: int
    reason: str
    issued_at: int
    contents: frozenset[bytes]
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """A verified, complete resume."""

    id: bytes
    record: bytes
    signers: frozenset[str]
    halts: frozenset[bytes]
    reason: str
    issued_at: int


Order = Halt | Resume


def seal(
    kind: str, payload: object, *, fleet: FleetId, keys: Mapping[str, bytes]
) -> tuple[bytes, bytes]:
    """Sign `payload` with each of `keys` (key id to seed). Returns the id and the record.

    Raises:
        TooLarge: readers would refuse a record of this size.
        Malformed: a field is out of its range.
    """
    limit = _BEACON_BYTES_MAX if kind == "beacon" else ORDER_BYTES_MAX
    body = encode(payload)
    # A signed halt that nobody can read stops everything: a reason too long must not do that.
    decode(type(payload), body, what=kind, limit=limit)
    message = signed_bytes(fleet, kind, body)
    signatures = tuple(Signature(keyid, sign(seed, message)) for keyid, seed in keys.items())
    record = encode(Envelope(kind, body, signatures))
    if len(record) > limit:
        raise TooLarge(kind, limit=limit, size=len(record))
    return sha256(message).digest(), record


def id_of(fleet: FleetId, envelope: Envelope) -> bytes:
    """The id of the order in an envelope, whoever has signed it."""
    return sha256(signed_bytes(fleet, envelope.kind, envelope.payload)).digest()


def check_halt(scope: Scope, level: int) -> None:
    """Whether this version may make and admit such a halt.

    Raises:
        Malformed: level 5 or above for more than a release or a digest.
    """
    if level >= LEVEL_NARROW and scope.kind not in {ScopeKind.RELEASE, ScopeKind.DIGEST}:
        wanted = f"a release or digest scope at level {LEVEL_NARROW} and above"
        raise Malformed("halt", wanted=wanted, got=f"scope {scope.kind.value} at level {level}")


def read_order(record: bytes, authority: Authority, *, is_recorded: bool = False) -> Order:
    """The order in `record`, verified against the halt or resume role of `authority`.

    `is_recorded`: this node verified and recorded it before, so its keys may have been rotated
    away since; `signers` then names those that still count.

    Raises:
        TooLarge: longer than ORDER_BYTES_MAX.
        Malformed: no envelope, an unknown kind, or a payload that its kind cannot have.
        Untrusted: too few valid signatures.
    """
    envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
    if envelope.kind not in {"halt", "resume"}:
        raise Malformed("order", wanted="kind halt or resume", got=repr(envelope.kind))
    if is_recorded:
        message, signers = _signers(envelope, authority)
    else:
        message, signers = verify(envelope, authority, what="order")
    order_id = sha256(message).digest()
    if envelope.kind == "halt":
        return _read_halt(order_id, record, envelope.payload, signers)
    payload = decode(ResumePayload, envelope.payload, what="resume", limit=ORDER_BYTES_MAX)
    return Resume(
        order_id, record, signers, frozenset(payload.halts), payload.reason, payload.issued_at
    )


def read_beacon(record: bytes, authority: Authority) -> frozenset[bytes]:
    """The order ids that a beacon names.

    Raises:
        TooLarge, Malformed, Untrusted: as `read_order`.
    """
    envelope = decode(Envelope, record, what="beacon", limit=_BEACON_BYTES_MAX)
    if envelope.kind != "beacon":
        raise Malformed("beacon", wanted="kind beacon", got=repr(envelope.kind))
    verify(envelope, authority, what="beacon")
    payload = decode(BeaconPayload, envelope.payload, what="beacon", limit=_BEACON_BYTES_MAX)
    return frozenset(payload.ids)


def merged(fresh: Order, known: Order) -> Order:
    """`known` with the signatures of `fresh`, the same order; those that count now come first."""
    limit = ORDER_BYTES_MAX
    envelopes = [
        decode(Envelope, each.record, what="order", limit=limit) for each in (fresh, known)
    ]
    by_keyid = {one.keyid: one for each in reversed(envelopes) for one in each.signatures}
    first = [keyid for keyid in by_keyid if keyid in fresh.signers]
    rest = [keyid for keyid in by_keyid if keyid not in fresh.signers]
    signatures = tuple(by_keyid[keyid] for keyid in [*first, *rest])[:SIGNATURES_MAX]
    record = encode(replace(envelopes[0], signatures=signatures))
    return replace(known, record=record, signers=known.signers | fresh.signers)


def verify(envelope: Envelope, authority: Authority, *, what: str) -> tuple[bytes, frozenset[str]]:
    """The signed bytes of `envelope` and the keys of its role that signed them.

    Raises:
        Untrusted: fewer valid signatures than the role's threshold.
    """
    message, signers = _signers(envelope, authority)
    threshold = _threshold(envelope.kind, authority)
    if len(signers) < threshold:
        role = _ROLE_OF.get(envelope.kind, envelope.kind)
        wanted = f"{threshold} valid signature(s) of role {role}"
        raise Untrusted(what, wanted=wanted, got=str(len(signers)))
    return message, signers


def is_complete(order: Order, authority: Authority) -> bool:
    """Whether as many keys of today have signed this as its role asks for."""
    kind = "halt" if isinstance(order, Halt) else "resume"
    return len(order.signers) >= _threshold(kind, authority)


def _threshold(kind: str, authority: Authority) -> int:
    role = authority.roles.get(_ROLE_OF.get(kind, kind))
    return role.threshold if role else 1


def _signers(envelope: Envelope, authority: Authority) -> tuple[bytes, frozenset[str]]:
    message = signed_bytes(authority.fleet, envelope.kind, envelope.payload)
    pairs = [(signature.keyid, signature.value) for signature in envelope.signatures]
    role = _ROLE_OF.get(envelope.kind, envelope.kind)
    return message, verified_keyids(authority, role, message, pairs)


def _read_halt(order_id: bytes, record: bytes, body: bytes, signers: frozenset[str]) -> Halt:
    try:
        payload = decode(HaltPayload, body, what="halt", limit=ORDER_BYTES_MAX)
        scope = parse_scope(payload.scope)
        check_halt(scope, payload.level)
    # A valid signature stands above whatever this is: an operator means to stop something.
    except FiredoorError as doubt:
        scope = Scope(ScopeKind.EVERYTHING)
        why = f"not understood, so everything stops: {doubt}"
        return Halt(
            order_id, record, signers, scope, LEVEL_IN_DOUBT, why, 0, frozenset(), is_doubtful=True
        )
    return Halt(
        order_id,
        record,
        signers,
        scope,
        payload.level,
        payload.reason,
        payload.issued_at,
        frozenset(payload.contents),
    )

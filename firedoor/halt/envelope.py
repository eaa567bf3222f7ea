"""Signed records as they travel: an envelope `{kind, payload, signatures}`, and what it proves.

* A signature covers fleet, kind and payload, so a record of one fleet or kind is never one of
  another. The id is the digest of exactly the signed bytes; more signatures make no new record.
* A kind is signed by one role of the fleet's metadata, by as many keys as that role asks for.

What a payload means is the readers' business: order.py, lease.py, certificate.py.
Source: halt/README.md, Records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from firedoor.errors import Malformed, TooLarge, Untrusted
from firedoor.identity import FleetId
from firedoor.limits import ORDER_BYTES_MAX, ORDERS_MAX, SIGNATURES_MAX
from firedoor.trust.keys import Authority
from firedoor.trust.signing import sign, signed_bytes, verified_keyids
from firedoor.wire.codec import decode, encode

# Which role signs a kind of record, where the two do not have one name. Whoever may lift a halt may
# say that a key or a machine counts no more: one stolen halt key must not cut a fleet off.
_ROLE_OF = {
    "drill": "halt",
    "revoke": "resume",
    "ban": "resume",
    "pass": "promote",
    "lease": "beacon",
    "certificate": "beacon",
}

CONTROLLER_HALT = "controller-halt"
"""A halt by the key that a release names; of its own kind, so that no halt key's passes for it."""

# One key is enough for what the origin says to people and no lease is made of, and for a halt by a
# release's controller, which has no role of root's.
_BY_ONE = frozenset({"certificate", CONTROLLER_HALT})

# A beacon lists every id of the set; all other kinds are orders, or as small.
BEACON_BYTES_MAX = ORDERS_MAX * 40 + ORDER_BYTES_MAX


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


def seal(
    kind: str, payload: object, *, fleet: FleetId, keys: Mapping[str, bytes]
) -> tuple[bytes, bytes]:
    """Sign `payload` with each of `keys` (key id to seed). Returns the id and the record.

    Raises:
        TooLarge: readers would refuse a record of this size.
        Malformed: a field is out of its range.
    """
    limit = BEACON_BYTES_MAX if kind == "beacon" else ORDER_BYTES_MAX
    body = encode(payload)
    # A signed halt that nobody can read stops everything: a reason too long must not do that.
    decode(type(payload), body, what=kind, limit=limit)
    message = signed_bytes(fleet, kind, body)
    signatures = tuple(Signature(keyid, sign(seed, message)) for keyid, seed in keys.items())
    record = encode(Envelope(kind, body, signatures))
    if len(record) > limit:
        raise TooLarge(kind, limit=limit, size=len(record))
    return sha256(message).digest(), record


def open_envelope(record: bytes, kind: str, *, limit: int = ORDER_BYTES_MAX) -> Envelope:
    """The envelope in `record`, unverified.

    Raises:
        TooLarge, Malformed: it is none, or of another kind.
    """
    envelope = decode(Envelope, record, what=kind, limit=limit)
    if envelope.kind != kind:
        raise Malformed(kind, wanted=f"kind {kind}", got=repr(envelope.kind))
    return envelope


def id_of(fleet: FleetId, envelope: Envelope) -> bytes:
    """The id of the record in an envelope, whoever has signed it."""
    return sha256(signed_bytes(fleet, envelope.kind, envelope.payload)).digest()


def role_of(kind: str) -> str:
    """The role that signs this kind of record."""
    return _ROLE_OF.get(kind, kind)


def threshold_of(kind: str, authority: Authority) -> int:
    """How many keys must sign this kind of record today."""
    role = authority.roles.get(role_of(kind))
    return role.threshold if role and kind not in _BY_ONE else 1


def signers_of(envelope: Envelope, authority: Authority) -> tuple[bytes, frozenset[str]]:
    """The signed bytes of `envelope`, and the keys of its role today that have signed them."""
    message = signed_bytes(authority.fleet, envelope.kind, envelope.payload)
    pairs = [(signature.keyid, signature.value) for signature in envelope.signatures]
    return message, verified_keyids(authority.roles.get(role_of(envelope.kind)), message, pairs)


def verify(envelope: Envelope, authority: Authority, *, what: str) -> tuple[bytes, frozenset[str]]:
    """The signed bytes of `envelope` and the keys of its role that signed them.

    Raises:
        Untrusted: fewer valid signatures than the role's threshold.
    """
    message, signers = signers_of(envelope, authority)
    require_enough(envelope, signers, authority, what=what)
    return message, signers


def require_enough(
    envelope: Envelope, signers: frozenset[str], authority: Authority, *, what: str
) -> None:
    """Nothing, if so many valid signatures are enough.

    Raises:
        Untrusted: they are not.
    """
    threshold = threshold_of(envelope.kind, authority)
    if len(signers) < threshold:
        wanted = f"{threshold} valid signature(s) of role {role_of(envelope.kind)}"
        raise Untrusted(what, wanted=wanted, got=str(len(signers)))


def countersigned(record: bytes, *, fleet: FleetId, keys: Mapping[str, bytes]) -> bytes:
    """`record`, signed by these keys alone, for whoever joins the two.

    Raises:
        TooLarge, Malformed: it is no record.
    """
    envelope = decode(Envelope, record, what="record", limit=BEACON_BYTES_MAX)
    message = signed_bytes(fleet, envelope.kind, envelope.payload)
    signatures = tuple(Signature(keyid, sign(seed, message)) for keyid, seed in keys.items())
    return encode(replace(envelope, signatures=signatures))


def joined(record: bytes, other: bytes) -> bytes:
    """Two records of one payload as one, with the signatures of both.

    Raises:
        TooLarge, Malformed: one is no record.
    """
    first, second = (
        decode(Envelope, each, what="record", limit=BEACON_BYTES_MAX) for each in (record, other)
    )
    by_keyid = {each.keyid: each for each in (*second.signatures, *first.signatures)}
    return encode(replace(first, signatures=tuple(by_keyid.values())[:SIGNATURES_MAX]))


def only_by(envelope: Envelope, keyids: frozenset[str]) -> Envelope:
    """`envelope` without what these keys have not signed: nobody may add a name to an order."""
    kept = tuple(each for each in envelope.signatures if each.keyid in keyids)
    return replace(envelope, signatures=kept)

"""Orders: what they say, and how signed bytes are read as one.

* halt: stops what its scope covers, to the extent of its level. controller-halt: the same for the
  one release that names its key. drill: a halt in everything but that it denies nothing. resume:
  lifts halts and bans. revoke: a key counts no more; of its orders only those that it lists
  survive. ban: a machine is refused. pass: a release passes halts of everything.
* A payload that a *valid halt signature* covers but that this version cannot read is a halt of
  everything at level 4: doubt stops. The same bytes unsigned are junk and count as nothing.
* Signatures by nobody are taken off at once, so that the keys in a record are those that signed it.

Nothing here keeps state; orderset.py does. Source: halt/README.md, Records and Authority.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from firedoor.errors import FiredoorError, Malformed
from firedoor.halt.envelope import (
    BEACON_BYTES_MAX,
    CONTROLLER_HALT,
    Envelope,
    only_by,
    open_envelope,
    require_enough,
    signers_of,
    threshold_of,
    verify,
)
from firedoor.halt.scope import Scope, ScopeKind, parse_scope
from firedoor.limits import (
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    REASON_BYTES_MAX,
    RESUMED_IDS_MAX,
    SIGNATURES_MAX,
    SURVIVORS_MAX,
)
from firedoor.trust.keys import Authority
from firedoor.trust.signing import signed_bytes, verified_keyids
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Digest, Id

LEVEL_MAX = 7
"""The highest level: rescue, by the boot guard."""

LEVEL_IN_DOUBT = 4

# Quarantine, roll back and rescue change what an endpoint runs; a wide one could push a fleet onto
# an old hole, so they take a scope that names bytes or versions (halt/README.md, Authority).
LEVEL_NARROW = 5
NARROW = frozenset({ScopeKind.RELEASE, ScopeKind.DIGEST, ScopeKind.RANGE})

Version = Annotated[int, Meta(ge=1, le=1)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Reason = Annotated[str, Meta(max_length=REASON_BYTES_MAX)]
Moment = Annotated[int, Meta(ge=0)]
KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True, slots=True)
class HaltPayload:
    """What a halt's or a drill's signature covers.

    `contents`: content digests, for signers that resolve them from signed metadata; our own command
    leaves that to each node.
    """

    version: Version
    nonce: Nonce
    scope: Annotated[str, Meta(max_length=160)]
    level: Annotated[int, Meta(ge=1, le=LEVEL_MAX)]
    issued_at: Moment
    reason: Reason
    contents: Annotated[tuple[Digest, ...], Meta(max_length=4)] = ()


@dataclass(frozen=True, slots=True)
class ResumePayload:
    """What a resume's signatures cover: the ids of the halts, bans and passes that it lifts."""

    version: Version
    nonce: Nonce
    halts: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=RESUMED_IDS_MAX)]
    issued_at: Moment
    reason: Reason


@dataclass(frozen=True, slots=True)
class RevokePayload:
    """What a revocation's signatures cover: a key, and those of its orders that survive it."""

    version: Version
    nonce: Nonce
    keyid: KeyId
    survivors: Annotated[tuple[Digest, ...], Meta(max_length=SURVIVORS_MAX)]
    issued_at: Moment
    reason: Reason


@dataclass(frozen=True, slots=True)
class BanPayload:
    """What a ban's signatures cover: the machine that is refused."""

    version: Version
    nonce: Nonce
    peer: Id
    issued_at: Moment
    reason: Reason


@dataclass(frozen=True, slots=True)
class PassPayload:
    """What a pass's signatures cover: the content digest of a release that mends things."""

    version: Version
    nonce: Nonce
    content: Digest
    issued_at: Moment
    reason: Reason


@dataclass(frozen=True, slots=True)
class BeaconPayload:
    """What the origin has recorded, by name."""

    version: Version
    ids: Annotated[tuple[Digest, ...], Meta(max_length=ORDERS_MAX)]


# Of every order: `keyids` have signed it, at whatever time; `signers` are those that count today.


@dataclass(frozen=True, slots=True)
class Halt:
    """A verified halt or drill. `is_doubtful`: signed rightly, but not understood."""

    id: bytes
    kind: str
    record: bytes
    keyids: frozenset[str]
    signers: frozenset[str]
    reason: str
    issued_at: int
    scope: Scope
    level: int
    contents: frozenset[bytes] = frozenset()
    is_doubtful: bool = False

    @property
    def is_drill(self) -> bool:
        """Whether it goes all ways of a halt and denies nothing."""
        return self.kind == "drill"

    @property
    def is_by_controller(self) -> bool:
        """Whether it stands by the word of the controller that its release names."""
        return self.kind == CONTROLLER_HALT


@dataclass(frozen=True, slots=True)
class Resume:
    """A verified, complete resume."""

    id: bytes
    kind: str
    record: bytes
    keyids: frozenset[str]
    signers: frozenset[str]
    reason: str
    issued_at: int
    halts: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Revoke:
    """A verified, complete revocation."""

    id: bytes
    kind: str
    record: bytes
    keyids: frozenset[str]
    signers: frozenset[str]
    reason: str
    issued_at: int
    keyid: str
    survivors: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Ban:
    """A verified, complete ban."""

    id: bytes
    kind: str
    record: bytes
    keyids: frozenset[str]
    signers: frozenset[str]
    reason: str
    issued_at: int
    peer: str


@dataclass(frozen=True, slots=True)
class Pass:
    """A verified, complete pass for one content."""

    id: bytes
    kind: str
    record: bytes
    keyids: frozenset[str]
    signers: frozenset[str]
    reason: str
    issued_at: int
    content: bytes


Order = Halt | Resume | Revoke | Ban | Pass

# What starts something acts only once the origin has named it; the rest acts when held.
Lifting = Resume | Revoke | Pass

_PAYLOADS: dict[str, type[ResumePayload | RevokePayload | BanPayload | PassPayload]] = {
    "resume": ResumePayload,
    "revoke": RevokePayload,
    "ban": BanPayload,
    "pass": PassPayload,
}
KINDS = ("halt", "drill", CONTROLLER_HALT, *_PAYLOADS)


def check_halt(scope: Scope, level: int) -> None:
    """Whether this version may make and admit such a halt.

    Raises:
        Malformed: level 5 or above for more than versions or a digest.
    """
    if level >= LEVEL_NARROW and scope.kind not in NARROW:
        wanted = f"a release, version range or digest at level {LEVEL_NARROW} and above"
        raise Malformed("halt", wanted=wanted, got=f"scope {scope.kind.value} at level {level}")


def read_order(record: bytes, authority: Authority, *, is_recorded: bool = False) -> Order:
    """The order in `record`, verified against the role of its kind.

    `is_recorded`: this node verified and recorded it before, so its keys may have been rotated
    away since; `signers` then names those that still count.

    Raises:
        TooLarge: longer than ORDER_BYTES_MAX.
        Malformed: no envelope, an unknown kind, or a payload that its kind cannot have.
        Untrusted: too few valid signatures.
    """
    envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
    if envelope.kind not in KINDS:
        raise Malformed("order", wanted=f"kind {', '.join(KINDS)}", got=repr(envelope.kind))
    if envelope.kind == CONTROLLER_HALT:
        message, signers = controllers_of(envelope, authority)
    else:
        message, signers = signers_of(envelope, authority)
    if not is_recorded:
        what = CONTROLLER_HALT if envelope.kind == CONTROLLER_HALT else "order"
        require_enough(envelope, signers, authority, what=what)
        if len(signers) < len(envelope.signatures):
            envelope = only_by(envelope, signers)
            record = encode(envelope)
    keyids = frozenset(each.keyid for each in envelope.signatures)
    facts = (sha256(message).digest(), envelope.kind, record, keyids, signers)
    if envelope.kind in _PAYLOADS:
        return _read_rest(facts, envelope)
    return _read_halt(facts, envelope.payload)


def controllers_of(envelope: Envelope, authority: Authority) -> tuple[bytes, frozenset[str]]:
    """The signed bytes of a controller's halt, and the keys that may have signed it.

    Those are the keys that the halted release itself names, and they reach nothing else. In doubt a
    halt key stops everything; what a controller signs and nobody understands stops nothing.

    Raises:
        Malformed: it is no halt of one release.
    """
    payload = decode(HaltPayload, envelope.payload, what=CONTROLLER_HALT, limit=ORDER_BYTES_MAX)
    scope = parse_scope(payload.scope)
    if scope.kind is not ScopeKind.RELEASE or payload.contents:
        raise Malformed(CONTROLLER_HALT, wanted="one release, by its name", got=payload.scope[:80])
    check_halt(scope, payload.level)
    message = signed_bytes(authority.fleet, envelope.kind, envelope.payload)
    pairs = [(signature.keyid, signature.value) for signature in envelope.signatures]
    named = authority.controllers.get((scope.name, scope.version))
    return message, verified_keyids(named, message, pairs)


def read_beacon(record: bytes, authority: Authority) -> tuple[frozenset[bytes], frozenset[str]]:
    """The order ids that a beacon names, and the keys that have signed it.

    Raises:
        TooLarge, Malformed, Untrusted: as `read_order`.
    """
    envelope = open_envelope(record, "beacon", limit=BEACON_BYTES_MAX)
    _, signers = verify(envelope, authority, what="beacon")
    payload = decode(BeaconPayload, envelope.payload, what="beacon", limit=BEACON_BYTES_MAX)
    return frozenset(payload.ids), signers


def merged(fresh: Order, known: Order, *, is_whole: bool) -> Order:
    """`known` with the signatures of `fresh`, the same order; those that count now come first.

    `is_whole`: `fresh` stands by keys of today. Then those of yesterday go: a thief's one key and
    the key that signed all orders anew after a rotation would else count as two.
    """
    limit = ORDER_BYTES_MAX
    envelopes = [
        decode(Envelope, each.record, what="order", limit=limit) for each in (fresh, known)
    ]
    by_keyid = {one.keyid: one for each in reversed(envelopes) for one in each.signatures}
    first = [keyid for keyid in by_keyid if keyid in fresh.signers]
    rest = [keyid for keyid in by_keyid if keyid not in fresh.signers]
    rest = [keyid for keyid in rest if keyid in known.signers or not is_whole]
    signatures = tuple(by_keyid[keyid] for keyid in [*first, *rest])[:SIGNATURES_MAX]
    record = encode(replace(envelopes[0], signatures=signatures))
    keyids = frozenset(one.keyid for one in signatures)
    return replace(known, record=record, keyids=keyids, signers=known.signers | fresh.signers)


def is_complete(order: Order, authority: Authority) -> bool:
    """Whether as many keys of today have signed this as its role asks for."""
    return len(order.signers) >= threshold_of(order.kind, authority)


_Facts = tuple[bytes, str, bytes, frozenset[str], frozenset[str]]


def _read_rest(facts: _Facts, envelope: Envelope) -> Order:
    kind = envelope.kind
    payload = decode(_PAYLOADS[kind], envelope.payload, what=kind, limit=ORDER_BYTES_MAX)
    said = (payload.reason, payload.issued_at)
    match payload:
        case ResumePayload(halts=halts):
            return Resume(*facts, *said, frozenset(halts))
        case RevokePayload(keyid=keyid, survivors=survivors):
            return Revoke(*facts, *said, keyid, frozenset(survivors))
        case BanPayload(peer=peer):
            return Ban(*facts, *said, peer)
        case PassPayload(content=content):
            return Pass(*facts, *said, content)


def _read_halt(facts: _Facts, body: bytes) -> Halt:
    try:
        payload = decode(HaltPayload, body, what="halt", limit=ORDER_BYTES_MAX)
        scope = parse_scope(payload.scope)
        check_halt(scope, payload.level)
    # A valid signature stands above whatever this is: an operator means to stop something.
    except FiredoorError as doubt:
        why = f"not understood, so everything stops: {doubt}"
        scope = Scope(ScopeKind.EVERYTHING)
        return Halt(*facts, why, 0, scope, LEVEL_IN_DOUBT, is_doubtful=True)
    said = (payload.reason, payload.issued_at)
    return Halt(*facts, *said, scope, payload.level, frozenset(payload.contents))

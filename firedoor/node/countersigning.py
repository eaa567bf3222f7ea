"""Leases and beacons that take several keys: each witness signs what it can vouch for.

* A witness is a mirror right below the origin, in another building, with a beacon key of its own.
  It signs a list of orders only if it has recorded all of them itself, and if nothing is missing in
  it that was ever named, or that it has signed for; and a lease only under metadata no older than
  its own. So what leases cover only grows, and a stolen key of the origin, even with a hostile
  mirror, makes none over an old set.
* It need not hold exactly the same: what a thief of a halt key has given to it alone, and the
  origin does not log, must not stop leases.
* What it signs for by name is on its disk before the signature leaves; a lease it signs only over
  what was so named.
* What it cannot vouch for yet it keeps, the last of each kind, and signs once it has caught up.
* A newer record takes the place of an open one, and a witness that comes is asked for what is open:
  nothing here waits for a time.

It holds no key: the host signs. Source: halt/README.md, Authority (a stolen beacon key).
"""

from collections.abc import Iterable

from firedoor.effects import AddSignature, Effect, KeepVouched, Send
from firedoor.errors import Malformed, Untrusted
from firedoor.halt.envelope import (
    BEACON_BYTES_MAX,
    Envelope,
    joined,
    only_by,
    signers_of,
    threshold_of,
)
from firedoor.halt.lease import LeasePayload
from firedoor.halt.order import BeaconPayload
from firedoor.halt.orderset import OrderSet
from firedoor.identity import PeerId, Role
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.node.session import Session
from firedoor.trust.keys import Authority
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Countersign


class Countersigning:
    """What is open at the origin, and what waits at a witness; the last of each kind."""

    __slots__ = ("_asked", "_is_origin", "_open", "_signed_for")

    def __init__(self, *, is_origin: bool) -> None:
        self._is_origin = is_origin
        self._open: dict[str, bytes] = {}
        self._asked: dict[str, tuple[PeerId, bytes]] = {}
        self._signed_for: frozenset[bytes] = frozenset()

    # --- at the origin -------------------------------------------------------------------------

    def ask(self, record: bytes, sessions: Iterable[Session]) -> list[Effect]:
        """Have `record`, which the origin alone has signed, signed by whoever witnesses here.

        Raises:
            TooLarge, Malformed: it is no record.
        """
        self._open[_envelope(record).kind] = record
        return [Send(one.peer.id, Countersign(record)) for one in sessions if one.is_witness]

    def met(self, session: Session, keyid: str, authority: Authority) -> list[Effect]:
        """A mirror holds this beacon key, it says: if that counts, it is asked for what is open."""
        role = authority.roles.get("beacon")
        is_counted = role is not None and keyid in role.keys
        session.is_witness = self._is_origin and is_counted and session.peer.role is Role.MIRROR
        open_ones = self._open.values() if session.is_witness else ()
        return [Send(session.peer.id, Countersign(record)) for record in open_ones]

    def answered(
        self, session: Session, record: bytes, authority: Authority
    ) -> tuple[str, bytes] | None:
        """The open record of this kind with the signatures of `record`, once they are enough.

        Raises:
            TooLarge, Malformed: it is no record.
            Untrusted: none of its signatures counts.
        """
        if not session.is_witness:
            return None
        answer = _envelope(record)
        signers = signers_of(answer, authority)[1]
        if not signers:
            raise Untrusted("countersignature", wanted="one by a beacon key", got="none")
        mine = self._open.get(answer.kind)
        if mine is None or _envelope(mine).payload != answer.payload:
            return None  # A newer one has taken its place.
        # Whoever claims a key may put junk under its name, which would keep the true one out.
        merged = self._open[answer.kind] = joined(mine, encode(only_by(answer, signers)))
        if is_short(merged, authority):
            return None
        return answer.kind, self._open.pop(answer.kind)

    # --- at a witness --------------------------------------------------------------------------

    @property
    def is_asked(self) -> bool:
        """Whether something waits to be signed here."""
        return bool(self._asked)

    def restore(self, vouched: Iterable[bytes]) -> None:
        """These were signed for before a start."""
        self._signed_for |= frozenset(vouched)

    def asked(self, origin: PeerId, record: bytes) -> None:
        """The origin wants this signed.

        Raises:
            TooLarge, Malformed: it is neither a lease nor a beacon that this version can read.
        """
        kind = _envelope(record).kind
        if kind not in {"lease", "beacon"}:
            raise Malformed("countersigned record", wanted="a lease or a beacon", got=repr(kind))
        (_beacon if kind == "beacon" else _lease)(record)
        self._asked[kind] = (origin, record)

    def wanted(self, authority: Authority) -> frozenset[bytes]:
        """What the origin wants to name, by its own signature; empty: nothing, or it is not its."""
        asked = self._asked.get("beacon")
        if asked is None or not signers_of(_envelope(asked[1]), authority)[1]:
            return frozenset()
        return frozenset(_beacon(asked[1]).ids)

    def due(
        self, recorded: Iterable[bytes], orders: OrderSet, authority: Authority
    ) -> list[Effect]:
        """Sign what this node, which has recorded these orders, can vouch for."""
        effects: list[Effect] = []
        here = frozenset(recorded)
        # Beacons first: leases are signed over what was named, or signed for by name.
        for kind, (origin, record) in sorted(self._asked.items()):
            ids = listed_in(record, orders, authority)
            is_whole = ids is not None and ids <= here and not orders.missed_by(ids)
            if ids is None or not is_whole or not self._signed_for & here <= ids:
                continue
            fresh = ids - self._signed_for - orders.named
            if fresh and kind == "lease":
                continue
            self._signed_for |= fresh
            del self._asked[kind]
            effects += [KeepVouched(tuple(sorted(fresh)))] if fresh else []
            effects.append(AddSignature(origin, record))
        return effects


def makes_leases_alone(keyid: str, authority: Authority) -> bool:
    """Whether this key is one of those of which each makes leases and beacons by itself."""
    role = authority.roles.get("beacon")
    return role is not None and role.threshold == 1 and keyid in role.keys


def is_short(record: bytes, authority: Authority) -> bool:
    """Whether `record` still lacks signatures of its role.

    Raises:
        TooLarge, Malformed: it is no record.
    """
    envelope = _envelope(record)
    return len(signers_of(envelope, authority)[1]) < threshold_of(envelope.kind, authority)


def listed_in(record: bytes, orders: OrderSet, authority: Authority) -> frozenset[bytes] | None:
    """The orders that a lease or a beacon is over; None: nobody should sign it, or not yet.

    That is: no beacon key has signed it, its metadata is older than mine, or its list is unknown.

    Raises:
        TooLarge, Malformed: it is no record.
    """
    envelope = _envelope(record)
    if not signers_of(envelope, authority)[1]:
        return None
    if envelope.kind == "beacon":
        return frozenset(_beacon(record).ids)
    said = _lease(record)
    versions = (said.root, said.targets, said.snapshot)
    mine = (authority.root_version, authority.targets_version, authority.snapshot_version)
    is_current = all(named >= held for named, held in zip(versions, mine, strict=True))
    ids = orders.listed(said.orders)
    return ids if is_current and ids is not None and len(ids) == said.count else None


def _envelope(record: bytes) -> Envelope:
    return decode(Envelope, record, what="countersigned record", limit=BEACON_BYTES_MAX)


def _beacon(record: bytes) -> BeaconPayload:
    payload = _envelope(record).payload
    return decode(BeaconPayload, payload, what="beacon", limit=BEACON_BYTES_MAX)


def _lease(record: bytes) -> LeasePayload:
    return decode(LeasePayload, _envelope(record).payload, what="lease", limit=ORDER_BYTES_MAX)

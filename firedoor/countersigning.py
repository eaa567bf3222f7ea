"""Leases and beacons that take several keys: each witness signs what it can vouch for.

* A witness is a mirror right below the origin, in another building, with a beacon key of its own.
  It signs over exactly the orders that it has recorded itself, under metadata no older than its
  own. What it has recorded only grows, so a stolen key of the origin, even with a hostile mirror,
  makes no lease over an old set.
* What it cannot vouch for yet it keeps, the last of each kind, and signs once it has caught up.
* A newer record takes the place of an open one, and a witness that comes is asked for what is open:
  nothing here waits for a time.

It holds no key: the host signs. Source: halt.md, Authority (a stolen beacon key).
"""

from collections.abc import Iterable

from firedoor.effects import AddSignature, Effect, Send
from firedoor.errors import Untrusted
from firedoor.halt.envelope import BEACON_BYTES_MAX, Envelope, joined, signers_of, threshold_of
from firedoor.halt.lease import LeasePayload
from firedoor.halt.merkle import root_of
from firedoor.halt.order import BeaconPayload
from firedoor.identity import PeerId, Role
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.session import Session
from firedoor.trust.keys import Authority
from firedoor.wire.codec import decode
from firedoor.wire.messages import Countersign


class Countersigning:
    """What is open at the origin, and what waits at a witness; the last of each kind."""

    __slots__ = ("_asked", "_is_origin", "_open")

    def __init__(self, *, is_origin: bool) -> None:
        self._is_origin = is_origin
        self._open: dict[str, bytes] = {}
        self._asked: dict[str, tuple[PeerId, bytes]] = {}

    # --- at the origin -------------------------------------------------------------------------

    def ask(self, record: bytes, sessions: Iterable[Session]) -> list[Effect]:
        """Have `record`, which the origin alone has signed, signed by whoever witnesses here."""
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
        if not signers_of(answer, authority)[1]:
            raise Untrusted(
                "countersignature", wanted="one of a beacon key", got="none that counts"
            )
        mine = self._open.get(answer.kind)
        if mine is None or _envelope(mine).payload != answer.payload:
            return None  # A newer one has taken its place.
        merged = self._open[answer.kind] = joined(mine, record)
        if is_short(merged, authority):
            return None
        return answer.kind, self._open.pop(answer.kind)

    # --- at a witness --------------------------------------------------------------------------

    def asked(self, origin: PeerId, record: bytes) -> None:
        """The origin wants this signed.

        Raises:
            TooLarge, Malformed: it is no record.
        """
        self._asked[_envelope(record).kind] = (origin, record)

    @property
    def is_asked(self) -> bool:
        """Whether something waits to be signed here."""
        return bool(self._asked)

    def due(self, recorded: tuple[bytes, ...], authority: Authority) -> list[Effect]:
        """Sign what this node, which has recorded these orders, can vouch for."""
        effects: list[Effect] = []
        for kind, (origin, record) in [*self._asked.items()]:
            if vouches(record, recorded, authority):
                del self._asked[kind]
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


def vouches(record: bytes, recorded: tuple[bytes, ...], authority: Authority) -> bool:
    """Whether a node that has recorded exactly `recorded` may sign a lease or a beacon too.

    Raises:
        TooLarge, Malformed: it is no record.
    """
    envelope = _envelope(record)
    if not signers_of(envelope, authority)[1]:
        return False  # Not the origin's: nobody else is signed for.
    if envelope.kind == "beacon":
        named = decode(BeaconPayload, envelope.payload, what="beacon", limit=BEACON_BYTES_MAX)
        return sorted(named.ids) == list(recorded)
    if envelope.kind != "lease":
        return False
    said = decode(LeasePayload, envelope.payload, what="lease", limit=ORDER_BYTES_MAX)
    named_versions = (said.root, said.targets, said.snapshot)
    mine = (authority.root_version, authority.targets_version, authority.snapshot_version)
    is_current = all(named >= held for named, held in zip(named_versions, mine, strict=True))
    return is_current and (said.orders, said.count) == (root_of(recorded), len(recorded))


def _envelope(record: bytes) -> Envelope:
    return decode(Envelope, record, what="countersigned record", limit=BEACON_BYTES_MAX)

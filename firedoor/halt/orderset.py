"""The set of signed orders that a node holds, merged by union.

* Admission verifies once per id; what was admitted never leaves, not through a rotation of its key
  either: only a revocation may end it, or a compaction by root, which lists what survives.
* What no key of today vouches for is obeyed, but neither offered nor claimed: whoever has it signed
  anew then offers it, and whoever never knew the old key is not bothered.
* `named`: ids that a beacon of the origin has named. What lifts something (a resume, a revocation,
  a pass) begins to act only when it is named under metadata within its dates, and then goes on.
* At most UNRECORDED_PER_KEY_MAX orders of one key that no beacon names are held, and at most
  ORDERS_PER_KEY_MAX of one key in all; of all controllers together CONTROLLER_HALTS_MAX.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256

from firedoor.errors import Refused, ShareFull, TooLarge
from firedoor.halt.envelope import (
    BEACON_BYTES_MAX,
    CONTROLLER_HALT,
    Envelope,
    only_by,
    open_envelope,
    role_of,
    threshold_of,
)
from firedoor.halt.merkle import root_of
from firedoor.halt.order import (
    Ban,
    Halt,
    Lifting,
    Order,
    Pass,
    Resume,
    Revoke,
    is_complete,
    merged,
    read_beacon,
    read_order,
)
from firedoor.limits import (
    CONTROLLER_HALTS_MAX,
    CONTROLLER_HALTS_OF_ONE_MAX,
    LISTS_MAX,
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    ORDERS_PER_KEY_MAX,
    UNRECORDED_PER_KEY_MAX,
)
from firedoor.trust.keys import Authority
from firedoor.wire.codec import decode, encode


class Admission(Enum):
    """What became of an offered order. `SIGNED_ANEW`: it is known, but not by all these keys."""

    NEW = "new"
    SIGNED_ANEW = "signed-anew"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Named:
    """What a beacon brought: `fresh` ids that none had named before.

    `is_list_new`: no such list was known lately; `is_key_new`: one of its keys had not said all of
    this before; `record`: the beacon without signatures by nobody, of which there could be endless;
    `digest`: over its list.
    """

    fresh: frozenset[bytes]
    is_list_new: bool
    is_key_new: bool
    record: bytes
    digest: bytes


class OrderSet:
    """All orders admitted here, and which of them the origin has named."""

    __slots__ = (
        "_acted",
        "_expected",
        "_held",
        "_judge",
        "_judged",
        "_lists",
        "_named",
        "_named_by",
        "_named_last",
        "_said",
        "_thresholds",
        "_void",
        "beacon",
        "beacon_list",
    )

    def __init__(self) -> None:
        self._held: dict[bytes, Order] = {}
        self._named: set[bytes] = set()
        # What was found right, and by whose keys.
        self._judged: dict[bytes, bytes] = {}
        self._judge: Authority | None = None
        self._lists: dict[bytes, frozenset[bytes]] = {}
        self._thresholds: dict[str, int] = {}
        self._acted: set[bytes] = set()
        self._void: set[bytes] = set()
        self.beacon = b""
        self.beacon_list = b""
        self._named_last = b""
        self._named_by: Authority | None = None
        # What the origin wants to name, by its own signature, though no beacon is whole yet.
        self._expected: frozenset[bytes] = frozenset()
        # By the id of each beacon key: what it has named.
        self._said: dict[str, frozenset[bytes]] = {}

    def admit(self, record: bytes, authority: Authority) -> tuple[Admission, Order]:
        """Verify `record` and add it to the set.

        Raises:
            TooLarge: it, the set, or the share of its key is full.
            Malformed, Untrusted: as `read_order` says.
        """
        if authority is not self._judge:
            self._judge, self._judged = authority, {}
        same = self._held.get(self._judged.get(record, b""))
        if same is not None:
            return Admission.KNOWN, same
        order = read_order(record, authority)
        known = self._held.get(order.id)
        if known is None:
            order = self._within_room(order, authority)
            self._hold(order, authority)
            return Admission.NEW, order
        if order.id not in self._void:
            fresh = order.signers - known.signers
            fresh = frozenset(each for each in fresh if self._lacks_room(each) is None)
            if not fresh:
                return Admission.KNOWN, known
            order = _signed_by(order, fresh)
        # Signatures merge under the id: that is how an order outlives a rotation of its key.
        self._hold(merged(order, known, is_whole=True), authority)
        return Admission.SIGNED_ANEW, self._held[order.id]

    def restore(self, record: bytes, authority: Authority) -> Order:
        """Take back what this node verified and recorded before, whosever keys count today.

        Raises:
            TooLarge, Malformed: it is no order.
        """
        order = read_order(record, authority, is_recorded=True)
        known = self._held.get(order.id)
        is_whole = is_complete(order, authority)
        order = order if known is None else merged(order, known, is_whole=is_whole)
        self._hold(order, authority)
        return order

    def is_judged(self, record: bytes, authority: Authority) -> bool:
        """Whether this is the beacon that was named last, found right by these very keys."""
        return record == self._named_last and authority is self._named_by

    def judge(self, authority: Authority) -> None:
        """Count signatures anew by these keys."""
        self._judge, self._judged = authority, {}
        # What a stolen beacon key has named out of thin air ends with the key.
        self._named &= set(self._held)
        role = authority.roles.get("beacon")
        keys = role.keys if role is not None else {}
        self._said = {keyid: ids for keyid, ids in self._said.items() if keyid in keys}
        if self.has_valid_beacon(authority):
            self._named |= read_beacon(self.beacon, authority)[0]
        for known in [*self._held.values()]:
            signers = read_order(known.record, authority, is_recorded=True).signers
            self._hold(replace(known, signers=signers), authority)

    def compact(self, authority: Authority) -> frozenset[bytes]:
        """Forget what a compaction by root leaves out of its role's orders; the ids of those.

        Only under metadata within its dates, for it lifts what it leaves out.
        """
        if authority.survivors is None or not authority.is_fresh:
            return frozenset()
        kept = authority.survivors
        gone = {each for each in self._void if each.hex() not in kept}
        # A controller's halt belongs to the halts, though no role of root's has signed it.
        roles = {each: role_of(self._held[each].kind) for each in gone}
        roles |= {each: "halt" for each, role in roles.items() if role == CONTROLLER_HALT}
        gone = {each for each, role in roles.items() if role == authority.compacted}
        for order_id in gone:
            del self._held[order_id]
        self._void -= gone
        self._named -= gone
        self._acted -= gone
        return frozenset(gone)

    def _hold(self, order: Order, authority: Authority) -> None:
        self._held[order.id] = order
        self._thresholds[order.kind] = threshold_of(order.kind, authority)
        if is_complete(order, authority):
            self._void.discard(order.id)
            # Every neighbour brings the same bytes, and one look at them is enough.
            self._judged[order.record] = order.id
        else:
            self._void.add(order.id)

    def forget_all(self, order_ids: Iterable[bytes]) -> frozenset[bytes]:
        """A compaction left these out before a restart; but for what was signed anew since."""
        gone = frozenset(order_ids)
        for order_id in gone & self._void:
            del self._held[order_id]
        self._void -= gone
        self._named -= gone
        return gone

    def restore_acted(self, order_ids: Iterable[bytes]) -> None:
        """These lifting orders acted before a restart."""
        self._acted.update(order_ids)

    def name(self, record: bytes, authority: Authority) -> Named:
        """Take in a beacon.

        Raises:
            TooLarge: with what was named before these are more than a set may hold; an honest
                origin never gets there, a stolen key must not fill memory.
            TooLarge, Malformed, Untrusted: as `read_beacon` says.
        """
        ids, signers = read_beacon(record, authority)
        fresh = ids - self._named
        if len(self._named) + len(fresh) > ORDERS_MAX:
            size = len(self._named) + len(fresh)
            raise TooLarge("ids named by beacons", limit=ORDERS_MAX, size=size)
        self._named |= fresh
        self._named_last, self._named_by = record, authority
        digest = root_of(sorted(ids))
        is_list_new = digest not in self._lists
        is_key_new = any(not ids <= self._said.get(each, frozenset()) for each in signers)
        for each in signers:
            # Joined, so that old beacons in turns with new ones are never news.
            self._said[each] = self._said.get(each, frozenset()) | ids
        self._lists[digest] = ids
        while len(self._lists) > LISTS_MAX:
            # The list of what is held is the one that leases are made over: it stays.
            kept = {root_of(self.counted()), self.beacon_list, digest}
            del self._lists[next(each for each in self._lists if each not in kept)]
        envelope = open_envelope(record, "beacon", limit=BEACON_BYTES_MAX)
        return Named(fresh, is_list_new, is_key_new, encode(only_by(envelope, signers)), digest)

    def is_committed(self, order_id: bytes, authority: Authority) -> bool:
        """Whether fewer beacon keys than make a lease have yet to say that they hold this order."""
        role = authority.roles.get("beacon")
        keys = role.keys if role is not None else {}
        lack = [keyid for keyid in keys if order_id not in self._said.get(keyid, ())]
        return role is not None and len(lack) < role.threshold

    def has_said(self, keyid: str, order_ids: Collection[bytes]) -> bool:
        """Whether a whole beacon that this key has signed named all of these."""
        return set(order_ids) <= self._said.get(keyid, frozenset())

    def has_valid_beacon(self, authority: Authority) -> bool:
        """Whether the last beacon is signed by a key that still counts; False: there is none."""
        try:
            read_beacon(self.beacon, authority)
        except Refused:
            return False
        return True

    def listed(self, digest: bytes) -> frozenset[bytes] | None:
        """The ids of a beacon whose Merkle root is `digest`, if it came lately."""
        if digest == root_of(self.counted()):
            # Exactly what is held here: no list need have come.
            return frozenset(self.counted())
        if digest == root_of(()):
            # An origin that has committed nothing yet has made no beacon.
            return frozenset()
        return self._lists.get(digest)

    def missed_by(self, ids: Collection[bytes]) -> frozenset[bytes]:
        """What was named, is held and counted, and is not among `ids`."""
        return frozenset(self._named & set(self.counted())) - set(ids)

    def let_resumes_act(self) -> tuple[bytes, ...]:
        """Begin to obey every lifting order that is named; the ids of those that begin, sorted.

        Only under metadata within its dates: expired metadata never starts anything.
        """
        lifting = {one.id for one in self._held.values() if isinstance(one, Lifting)}
        fresh = sorted(lifting & self._named - self._acted)
        self._acted |= set(fresh)
        return tuple(fresh)

    def in_force(self) -> list[Halt]:
        """The halts and drills that nothing lifts, in order of id."""
        return [order for order in self._alive() if isinstance(order, Halt)]

    def banned(self) -> frozenset[str]:
        """The machines that are refused."""
        return frozenset(order.peer for order in self._alive() if isinstance(order, Ban))

    def passed(self) -> frozenset[bytes]:
        """The contents that pass halts of everything."""
        alive = [order for order in self._alive() if isinstance(order, Pass)]
        return frozenset(order.content for order in alive if order.id in self._acted)

    def _alive(self) -> list[Order]:
        """Every order that is neither lifted nor revoked, in order of id."""
        acting = [order for order in self._held.values() if order.id in self._acted]
        revokes = [order for order in acting if isinstance(order, Revoke)]
        alive = [left for order in self._held.values() if (left := self._left(order, revokes))]
        resumes = [order for order in alive if isinstance(order, Resume)]
        lifted = {each for order in resumes if order.id in self._acted for each in order.halts}
        return sorted((order for order in alive if order.id not in lifted), key=_id)

    def _left(self, order: Order, revokes: Iterable[Revoke]) -> Order | None:
        """`order` with the keys that still count for it; None: they are too few."""
        gone = {each.keyid for each in revokes if order.id not in each.survivors}
        if not order.keyids & gone:
            return order
        left = order.keyids - gone
        return replace(order, keyids=left) if len(left) >= self._thresholds[order.kind] else None

    @property
    def named(self) -> frozenset[bytes]:
        """Every id that a beacon of the origin has named."""
        return frozenset(self._named)

    def get(self, order_id: bytes) -> Order | None:
        """The order with this id, if it is held."""
        return self._held.get(order_id)

    def is_named(self, order_id: bytes) -> bool:
        """Whether a beacon of the origin has named this id."""
        return order_id in self._named

    def ids(self) -> tuple[bytes, ...]:
        """Every id held, sorted."""
        return tuple(sorted(self._held))

    def offered(self) -> tuple[bytes, ...]:
        """The ids of the orders that keys of today vouch for, sorted."""
        return tuple(sorted(set(self._held) - self._void))

    def counted(self) -> tuple[bytes, ...]:
        """Those of them that leases are over: all but the halts of controllers, sorted.

        Who can read those depends on publishers' lists, which come, expire and differ from machine
        to machine; a program's key must not be able to keep a fleet without leases.
        """
        return tuple(each for each in self.offered() if self._held[each].kind != CONTROLLER_HALT)

    def expect(self, order_ids: Collection[bytes]) -> bool:
        """The origin has committed these, says its signature; whether all of them are held here."""
        self._expected = frozenset(order_ids)
        return self._expected <= set(self._held)

    def lacks_named(self) -> bool:
        """Whether a beacon has named what is not held here."""
        return not self._named <= set(self._held)

    def records_but(self, known: Iterable[bytes]) -> tuple[bytes, ...]:
        """The records of the orders offered here whose id is not in `known`, in order of id."""
        rest = sorted(set(self.offered()) - set(known))
        return tuple(self._held[order_id].record for order_id in rest)

    def digest(self) -> bytes:
        """SHA-256 over the sorted ids offered: equal sets, equal digests."""
        return sha256(b"".join(self.offered())).digest()

    def _within_room(self, order: Order, authority: Authority) -> Order:
        """The order, without signatures of keys that have no room left, if the others are enough.

        A thief could else sign what an honest key has signed, and have it refused with its own.

        Raises:
            TooLarge: the set, or the share of too many of its keys, is full.
        """
        if len(self._held) >= ORDERS_MAX:
            raise TooLarge("order set", limit=ORDERS_MAX, size=len(self._held) + 1)
        if order.id in self._named or order.id in self._expected:
            return order  # The origin has committed it: who refused it would get no lease.
        if isinstance(order, Halt) and order.is_by_controller:
            self._check_room_of_controllers(order)
        full = {keyid: why for keyid in order.signers if (why := self._lacks_room(keyid))}
        able = order.signers - set(full)
        if full and len(able) < threshold_of(order.kind, authority):
            raise next(iter(full.values()))
        if not full:
            return order
        return _signed_by(order, able)

    def _lacks_room(self, keyid: str) -> ShareFull | None:
        """Why no more orders of this key are held; None: there is room."""
        mine = [each.id for each in self._held.values() if keyid in each.signers]
        if len(mine) >= ORDERS_PER_KEY_MAX:
            return ShareFull("orders of one key", limit=ORDERS_PER_KEY_MAX, size=len(mine) + 1)
        unlogged = len(set(mine) - self._named)
        if unlogged >= UNRECORDED_PER_KEY_MAX:
            what = "orders of one key that the origin has not committed"
            return ShareFull(what, limit=UNRECORDED_PER_KEY_MAX, size=unlogged + 1)
        return None

    def _check_room_of_controllers(self, order: Halt) -> None:
        held = [each for each in self._held.values() if isinstance(each, Halt)]
        held = [each for each in held if each.id not in self._void]
        scopes = [each.scope for each in held if each.is_by_controller]
        if len(scopes) >= CONTROLLER_HALTS_MAX:
            what = "halts by controllers"
            raise TooLarge(what, limit=CONTROLLER_HALTS_MAX, size=len(scopes) + 1)
        same = scopes.count(order.scope)
        if same >= CONTROLLER_HALTS_OF_ONE_MAX:
            what = f"halts of {order.scope.text} by its controller"
            raise TooLarge(what, limit=CONTROLLER_HALTS_OF_ONE_MAX, size=same + 1)


def _signed_by(order: Order, keyids: frozenset[str]) -> Order:
    """The order with the signatures of these keys alone, which are some of its signers."""
    envelope = decode(Envelope, order.record, what="order", limit=ORDER_BYTES_MAX)
    record = encode(only_by(envelope, keyids))
    return replace(order, record=record, keyids=keyids, signers=keyids)


def _id(order: Order) -> bytes:
    return order.id

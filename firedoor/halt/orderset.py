"""The set of signed orders that a node holds, merged by union.

* Admission verifies once per id; what was admitted never leaves (compaction comes later).
* `named`: ids that a beacon of the origin has named. A resume acts only when it is named.
* At most UNRECORDED_PER_KEY_MAX orders of one key that no beacon names are held.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from hashlib import sha256

from firedoor.errors import TooLarge
from firedoor.halt.order import Halt, Order, Resume, read_beacon, read_order
from firedoor.limits import ORDERS_MAX, UNRECORDED_PER_KEY_MAX
from firedoor.trust.keys import Authority


class Admission(Enum):
    """What became of an offered order."""

    NEW = "new"
    KNOWN = "known"


class OrderSet:
    """All orders admitted here, and which of them the origin has named."""

    __slots__ = ("_held", "_named", "_unnamed_by_key")

    def __init__(self) -> None:
        self._held: dict[bytes, Order] = {}
        self._named: set[bytes] = set()
        self._unnamed_by_key: Counter[str] = Counter()

    def admit(self, record: bytes, authority: Authority) -> tuple[Admission, Order]:
        """Verify `record` and add it to the set.

        Raises:
            TooLarge: it, the set, or the share of its key is full.
            Malformed, Untrusted: as `read_order` says.
        """
        order = read_order(record, authority)
        known = self._held.get(order.id)
        if known is not None:
            return Admission.KNOWN, known
        self._check_room(order)
        self._held[order.id] = order
        if order.id not in self._named:
            self._unnamed_by_key.update(order.signers)
        return Admission.NEW, order

    def name(self, record: bytes, authority: Authority) -> frozenset[bytes]:
        """Take in a beacon. Returns the ids that it names and that were not named before.

        Raises:
            TooLarge: with what was named before these are more than a set may hold; an honest
                origin never gets there, a stolen key must not fill memory.
            TooLarge, Malformed, Untrusted: as `read_beacon` says.
        """
        fresh = read_beacon(record, authority) - self._named
        if len(self._named) + len(fresh) > ORDERS_MAX:
            size = len(self._named) + len(fresh)
            raise TooLarge("ids named by beacons", limit=ORDERS_MAX, size=size)
        for order_id in fresh:
            held = self._held.get(order_id)
            if held is not None:
                self._unnamed_by_key.subtract(held.signers)
        self._named |= fresh
        return fresh

    def in_force(self, *, may_resume: bool) -> list[Halt]:
        """The halts that no acting resume names, in order of id.

        `may_resume`: whether the authority is fresh; expired metadata never starts anything.
        """
        lifted: set[bytes] = set()
        for order in self._held.values():
            if may_resume and isinstance(order, Resume) and order.id in self._named:
                lifted |= order.halts
        halts = [order for order in self._held.values() if isinstance(order, Halt)]
        return sorted((halt for halt in halts if halt.id not in lifted), key=_id)

    def get(self, order_id: bytes) -> Order | None:
        """The order with this id, if it is held."""
        return self._held.get(order_id)

    def is_named(self, order_id: bytes) -> bool:
        """Whether a beacon of the origin has named this id."""
        return order_id in self._named

    def ids(self) -> tuple[bytes, ...]:
        """Every id held, sorted."""
        return tuple(sorted(self._held))

    def records_but(self, known: Iterable[bytes]) -> tuple[bytes, ...]:
        """The records of all orders held whose id is not in `known`, in order of id."""
        rest = sorted(set(self._held) - set(known))
        return tuple(self._held[order_id].record for order_id in rest)

    def digest(self) -> bytes:
        """SHA-256 over the sorted ids: equal sets, equal digests."""
        return sha256(b"".join(sorted(self._held))).digest()

    def _check_room(self, order: Order) -> None:
        if len(self._held) >= ORDERS_MAX:
            raise TooLarge("order set", limit=ORDERS_MAX, size=len(self._held) + 1)
        if order.id in self._named:
            return
        worst = max((self._unnamed_by_key[keyid] for keyid in order.signers), default=0)
        if worst >= UNRECORDED_PER_KEY_MAX:
            raise TooLarge(
                "orders of one key that the origin has not logged",
                limit=UNRECORDED_PER_KEY_MAX,
                size=worst + 1,
            )


def _id(halt: Halt) -> bytes:
    return halt.id

"""The lease: proof, at most so old, that this node holds every order that the origin had recorded.

* An endpoint draws a nonce and notes its own time before it sends it; the origin signs the nonce
  together with the state of its order set. What comes back was made after that time, whoever
  carried it, so the lease counts from there. No wall clock is in it, and it lives in memory only.
* An install or an activation starts under a lease at most `start` old; pieces of a release move
  under one at most `move` old, so that a flapping WAN does not stop the LAN.
* A lost lease stops nothing that runs, and no step back.

It draws no nonce (the host does) and batches none (nonces.py does). Source: halt/README.md,
The lease; Roughtime (draft-ietf-ntp-roughtime) for nonces under one signature.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from firedoor.errors import Stale, Unavailable, Untrusted
from firedoor.halt.envelope import open_envelope, verify
from firedoor.halt.merkle import climb
from firedoor.limits import ORDER_BYTES_MAX, ORDERS_MAX
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span, after, between
from firedoor.wire.codec import decode
from firedoor.wire.messages import Digest

# A nonce that was not answered is given up for a new one, later where lines are thin: one that is
# full of pieces takes some seconds, and an answer to a nonce that was given up counts for nothing.
ASK_AGAIN_SPAN = Span(3.0)
ASK_AGAIN_SPAN_MAX = Span(10.0)

# A refused answer is asked for anew this soon: newer metadata or orders are on their way.
REFUSED_SPAN = Span(0.5)

# Where a stick carries nonces, an endpoint's is at most so old when a stick takes it along: little
# beside the hours of its way, and 144 of a day are quickly looked through.
CARRIED_FRESH_SPAN = Span(600.0)

# It is said again so often: a mirror that has started anew knows all of its site a minute later.
CARRIED_AGAIN_SPAN = Span(60.0)

# A node that was refused for want of a lease looks for one this long after it last asked to move.
SEEK_SPAN = Span(60.0)


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How old a lease may be: to `start` an install or an activation, and to `move` pieces.

    `is_carried`: an answer may come by stick, hours after its nonce was drawn.
    """

    start: Span
    move: Span
    is_carried: bool = False

    @property
    def renewal(self) -> Span:
        """The age at which a node that has work asks for the next one."""
        return Span(self.start / 3)

    @property
    def patience(self) -> Span:
        """How long an answer may take before it is asked for anew."""
        return Span(min(ASK_AGAIN_SPAN_MAX, max(ASK_AGAIN_SPAN, self.start / 60)))


# Source: halt/README.md. The start of the first is the bound that a partition gives after a halt.
STANDARD = LeaseTerms(Span(30.0), Span(3600.0))
THIN_WAN = LeaseTerms(Span(600.0), Span(3600.0))
AIR_GAPPED = LeaseTerms(Span(86400.0), Span(86400.0), is_carried=True)

TERMS = {"standard": STANDARD, "thin-wan": THIN_WAN, "air-gapped": AIR_GAPPED}


@dataclass(frozen=True, slots=True)
class LeasePayload:
    """What the origin signs: its metadata's versions, its order set, the nonces that it was asked.

    `orders`: Merkle root over the sorted ids of its latest beacon, `count` of them; `nonces`:
    Merkle root over nonces.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    root: Annotated[int, Meta(ge=0)]
    targets: Annotated[int, Meta(ge=0)]
    snapshot: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=0, le=ORDERS_MAX)]
    orders: Digest
    nonces: Digest


@dataclass(frozen=True, slots=True)
class Known:
    """What a node knows when an answer comes.

    `listed`: the ids under the root that was signed, None: unknown; `missed`: ids that a beacon
    named earlier, that are held here and that are not listed; `lacking`: listed and not held.
    """

    authority: Authority
    listed: Collection[bytes] | None
    missed: Collection[bytes]
    lacking: Collection[bytes]


class Lease:
    """The lease of one node. `why`: why there is none, or why the last answer gave none."""

    __slots__ = ("_again_at", "_not_before", "_open", "_since", "_sought_until", "terms", "why")

    def __init__(self, terms: LeaseTerms) -> None:
        self.terms = terms
        # When each was drawn; more than one only where they are carried.
        self._open: dict[bytes, Instant] = {}
        self._again_at = Instant(0.0)
        self._since: Instant | None = None
        self._not_before = Instant(0.0)
        self._sought_until = Instant(0.0)
        self.why = "none was asked for yet"

    def ask(self, nonce: bytes, now: Instant) -> None:
        """This nonce is about to be sent, for the first time or again.

        An earlier one that is still open counts no more, but where they are carried.
        """
        if self.terms.is_carried:
            self._forget_before(Instant(now - self.terms.start))
        else:
            self._open.clear()
        self._open.setdefault(nonce, now)
        patience = CARRIED_AGAIN_SPAN if self.terms.is_carried else self.terms.patience
        self._again_at = after(now, patience)

    def to_say_again(self, now: Instant) -> bytes | None:
        """The open nonce that is still young enough for a stick; None: a new one is to be drawn."""
        young = [nonce for nonce, at in self._open.items() if between(at, now) < CARRIED_FRESH_SPAN]
        return young[-1] if young and self.terms.is_carried else None

    def seek(self, now: Instant) -> None:
        """Something waits for a lease."""
        self._sought_until = after(now, SEEK_SPAN)

    def ask_soon(self) -> None:
        """Whoever was asked is gone, or somebody new can be: do not wait for the old answer."""
        self._ask_at(Instant(0.0))

    def say(self, why: str) -> None:
        """Why there is none, for a person."""
        self.why = why

    def void(self, why: str) -> None:
        """What was granted counts no more."""
        self._open.clear()
        self._since, self.why = None, why

    def is_live(self, span: Span, now: Instant) -> bool:
        """Whether there is a lease of at most this age."""
        age = self.age(now)
        return age is not None and 0 <= age <= span

    def age(self, now: Instant) -> Span | None:
        """Seconds since the nonce of the present lease was drawn; None: there is none."""
        return None if self._since is None else between(self._since, now)

    def is_due(self, now: Instant, *, has_work: bool) -> bool:
        """Whether to draw a nonce and ask now, or to say one again."""
        due = self._due(now, has_work=has_work)
        return due is not None and now >= due

    def next_wakeup(self, now: Instant, *, has_work: bool) -> Instant | None:
        """When `is_due` may become true; None: there is nothing to ask for."""
        return self._due(now, has_work=has_work)

    def is_urgent(self, now: Instant) -> bool:
        """Whether something may wait for it, so that a batch should not."""
        return not self.is_live(Span(self.terms.start / 2), now)

    def grant(self, nonces: bytes, path: tuple[bytes, ...], now: Instant) -> bool:
        """An answer whose record is good signs `nonces`; whether it is the answer to my nonce."""
        since = self.drawn_at(nonces, path)
        if since is None:
            return False
        self._forget_before(since)
        self.why = ""
        if since <= now and (self._since is None or since > self._since):
            self._since = since
        return True

    def drawn_at(self, nonces: bytes, path: tuple[bytes, ...]) -> Instant | None:
        """When the nonce was drawn that `path` leads from to `nonces`; None: none that is open.

        Raises:
            Malformed: a step that is none.
        """
        return next((at for one, at in self._open.items() if climb(one, path) == nonces), None)

    @property
    def is_asking(self) -> bool:
        """Whether a nonce is open."""
        return bool(self._open)

    def refuse(self, why: str, now: Instant) -> None:
        """An answer gave no lease; what was granted before goes on until it is too old."""
        self.why = why
        self._ask_at(after(now, ASK_AGAIN_SPAN if self.terms.is_carried else REFUSED_SPAN))

    def _due(self, now: Instant, *, has_work: bool) -> Instant | None:
        is_carried = self.terms.is_carried
        if not (has_work or is_carried) and now > self._sought_until:
            return None
        if self._open:
            return self._again_at
        if self._since is None:
            return max(now, self._not_before)
        age = CARRIED_FRESH_SPAN if is_carried else self.terms.renewal
        return max(after(self._since, age), self._not_before)

    def _ask_at(self, moment: Instant) -> None:
        """Ask once more then; with a new nonce, but where they are carried."""
        if not self.terms.is_carried:
            self._open.clear()
        self._again_at = self._not_before = moment

    def _forget_before(self, moment: Instant) -> None:
        """Nonces that were drawn by then are answered, or too old to be."""
        self._open = {nonce: at for nonce, at in self._open.items() if at > moment}


def read_lease(record: bytes, authority: Authority) -> LeasePayload:
    """What the origin signed in `record`.

    Raises:
        TooLarge, Malformed: it is no such record.
        Untrusted: not signed by the beacon role's keys.
    """
    envelope = open_envelope(record, "lease")
    verify(envelope, authority, what="lease")
    return decode(LeasePayload, envelope.payload, what="lease", limit=ORDER_BYTES_MAX)


def check_lease(said: LeasePayload, known: Known) -> None:
    """Whether what the origin said proves that nothing is missing here.

    Raises:
        Stale: my metadata is older than the origin's.
        Unavailable: I lack an order, or the list of them; both are on their way.
        Untrusted: the origin lacks an order that it named before; it has been set back.
    """
    mine = known.authority
    versions = {
        "root": (mine.root_version, said.root),
        "targets": (mine.targets_version, said.targets),
        "snapshot": (mine.snapshot_version, said.snapshot),
    }
    for role, (held, named) in versions.items():
        if held < named:
            raise Stale(role, trusted=named, offered=held)
    if known.listed is None or len(known.listed) != said.count:
        raise Unavailable("lease", why="the beacon that lists the origin's orders is not here yet")
    if known.lacking:
        raise Unavailable("lease", why=f"{len(known.lacking)} order(s) of the origin are not here")
    if known.missed:
        got = f"{len(known.missed)} fewer; they are handed up"
        raise Untrusted("origin's orders", wanted="all that it named before", got=got)

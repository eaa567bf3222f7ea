"""Leases as one node handles them: asks for its own, passes those of others on, judges answers.

Who asks goes up to whoever is nearer to the origin: a mirror's upstream, an endpoint's mirrors; and
where no mirror answers, to any endpoint, which passes it on if it reaches one itself.
The origin answers, and needs none. A mirror of an air-gapped site that has nobody above it keeps
what is asked for a stick. halt/lease.py has the rules, halt/nonces.py the batches, halt/carried.py
what a stick carries.
"""

from collections.abc import Iterable

from firedoor.dice import Dice
from firedoor.effects import DrawNonce, Effect, Send, SignLease, Tell
from firedoor.errors import FiredoorError, Unavailable
from firedoor.halt.brake import Gate
from firedoor.halt.carried import CarriedLeases
from firedoor.halt.lease import (
    Known,
    Lease,
    LeasePayload,
    check_lease,
    read_lease,
)
from firedoor.halt.merkle import climb
from firedoor.halt.nonces import BATCH_SPAN, NonceRelay
from firedoor.halt.orderset import OrderSet
from firedoor.halt.sync import send_orders
from firedoor.identity import PeerId, Role
from firedoor.node.session import Session
from firedoor.node.settings import NodeSettings
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span
from firedoor.wire.messages import LeaseAsked, LeaseGiven
from firedoor.wire.stick import Answer

# Endpoints that are asked at once where no mirror answers; any of them may reach one.
NEIGHBOURS_ASKED_MAX = 3


class Leasing:
    """The lease of a node, and the nonces that go through it."""

    __slots__ = (
        "_asked_of",
        "_can_ask",
        "_dice",
        "_is_fed_by_stick",
        "_is_origin",
        "_is_stranded",
        "_me",
        "_missed",
        "_orders",
        "_relay",
        "_role",
        "_unsent",
        "carried",
        "lease",
    )

    def __init__(self, settings: NodeSettings, orders: OrderSet, dice: Dice) -> None:
        self._me = settings.me
        self._orders = orders
        self._dice = dice
        self._role, self._is_origin = settings.role, settings.is_origin
        self._can_ask = settings.is_origin
        # An endpoint's own nonce waits for nobody; the origin's bound is between two signatures.
        is_batching = self._role is Role.MIRROR and not self._is_origin
        window = BATCH_SPAN if is_batching else Span(0.0)
        self._relay = NonceRelay(window, settings.lease.patience)
        self.lease = Lease(settings.lease)
        self._missed: frozenset[bytes] = frozenset()
        self.carried = CarriedLeases()
        self._is_fed_by_stick = settings.is_fed_by_stick
        # As the last `wake` found it: fed by stick, and with no beacon key that counts.
        self._is_stranded = False
        # An endpoint's own nonce that has not left yet, where they are carried.
        self._unsent: bytes | None = None
        # Whose word on it is looked at: each costs a way up a tree for each open nonce.
        self._asked_of: frozenset[PeerId] = frozenset()

    def covers(self, gate: Gate, now: Instant) -> bool:
        """Whether there is a lease for what lies behind `gate`; if not, one is looked for."""
        spans = {Gate.FETCH: self.lease.terms.move}
        if self._is_origin or gate is Gate.SERVE:
            return True
        is_live = self.lease.is_live(spans.get(gate, self.lease.terms.start), now)
        if not is_live:
            self.lease.seek(now)
        return is_live

    def missing(self) -> Unavailable:
        """The error that says that a lease is missing, and why."""
        why = self.lease.why or "the last has run out; a new one is asked for"
        return Unavailable("waits for a lease", why=why)

    def ask(self, nonce: bytes, now: Instant) -> None:
        """The host has drawn `nonce` just now."""
        self.lease.ask(nonce, now)
        if self._asks_for_itself:
            self._unsent = nonce
            return
        if self._is_fed_by_stick:
            self.carried.ask(self._me, nonce)
        if self._is_stranded:
            return
        # An endpoint's own leaves at once, and says whether a mirror's batch may wait with it.
        is_urgent = self.lease.is_urgent(now)
        can_wait = self._role is Role.MIRROR and not is_urgent
        patience = self.lease.terms.renewal if can_wait else Span(0.0)
        self._relay.take(self._me, nonce, now, patience=patience, is_urgent=is_urgent)

    def asked(
        self,
        session: Session,
        message: LeaseAsked,
        sessions: Iterable[Session],
        now: Instant,
        *,
        signs: bool,
    ) -> list[Effect]:
        """Somebody wants a lease; that is passed on if it leads anywhere, or waits for a stick.

        `signs`: a beacon key here counts; a second origin's makes leases while none is above it.
        """
        peer = session.peer.id
        if not session.sync.is_open or self._asks_for_itself:
            # Sync before anything that moves. And where leases are carried a mirror keeps one
            # question for each peer: a neighbour's would take the place of this endpoint's own.
            return []
        if self._is_origin or signs or _upstreams(sessions):
            self._can_ask = True
            # A renewal can wait for those of the whole site; the origin's signatures have a bound.
            can_wait = not (self._is_origin or message.is_urgent)
            patience = self.lease.terms.renewal if can_wait else Span(0.0)
            nonce, is_urgent = message.nonce, message.is_urgent
            self._relay.take(peer, nonce, now, patience=patience, is_urgent=is_urgent)
        elif self._is_fed_by_stick and session.peer.role is not Role.OPERATOR:
            given = self.carried.ask(peer, message.nonce)
            return [Send(peer, given)] if given is not None else []
        return []

    def opened(self, session: Session) -> None:
        """Orders are in step with a peer: what is open can be asked there."""
        self._can_ask = True
        if session.is_upstream or self._role is Role.AGENT:
            self._relay.ask_again()
        if self._asks_for_itself:
            self.lease.ask_soon()

    def closed(self, session: Session) -> None:
        """A conversation has ended."""
        self._relay.forget(session.peer.id)
        if session.is_upstream:
            self._relay.ask_again()
            self.lease.ask_soon()

    def given(
        self, message: LeaseGiven, sender: PeerId | None, authority: Authority, now: Instant
    ) -> list[Effect]:
        """An answer came from `sender`, or was signed here.

        What the origin has lost, by what it signed, goes up again.

        Raises:
            TooLarge, Malformed, Untrusted: not the origin's, or no answer to what was asked.
        """
        self._missed = frozenset()
        is_own = sender in self._asked_of and self.lease.is_asking
        if not (self._relay.is_open or is_own):
            return []  # Nobody asked: an old answer, sent to cost us something.
        said = read_lease(message.record, authority)
        effects: list[Effect] = []
        if is_own:
            if self.lease.drawn_at(said.nonces, message.path) is None:
                return []  # What an endpoint asks where they are carried is in no batch here.
            effects = self._take(said, message.path, self._known(said, authority), now)
            return [*effects, *self._heal(sender)]
        known = self._known(said, authority)
        for peer, path in self._relay.answered(said.nonces, message.path):
            if peer == self._me:
                effects += self._take(said, path, known, now)
            else:
                effects.append(Send(peer, LeaseGiven(message.record, path)))
        return [*effects, *self._heal(sender)]

    def brought(
        self,
        answer: Answer,
        authority: Authority,
        sessions: Iterable[Session],
        now: Instant,
    ) -> list[Effect]:
        """A stick has come home with `answer`; each of `sessions` hears of its own lease.

        Raises:
            TooLarge, Malformed, Untrusted: not the origin's, or no answer to what was asked here.
        """
        said = read_lease(answer.record, authority)
        given = self.carried.take(answer, said.nonces)
        there = [one.peer.id for one in sessions if one.peer.id in given]
        effects: list[Effect] = [Send(peer, given[peer]) for peer in there]
        mine = given.get(self._me)
        if mine is not None and self.lease.drawn_at(said.nonces, mine.path) is not None:
            effects += self._take(said, mine.path, self._known(said, authority), now)
        elif not self.lease.is_live(self.lease.terms.start, now):
            self.lease.say("a stick brought none for what this run of the program has asked")
        return effects

    def wake(
        self, sessions: Iterable[Session], now: Instant, *, has_work: bool, signs: bool
    ) -> list[Effect]:
        """Ask for what is due, or have it signed; `signs` as in `asked`."""
        open_ones = [one for one in sessions if one.sync.is_open]
        above = [] if self._is_origin else self._asked_peers(open_ones)
        is_signing = self._is_origin or (signs and not above)
        self._is_stranded = self._is_fed_by_stick and not (is_signing or above)
        self._can_ask = is_signing or bool(above) or self._is_stranded
        if not self._can_ask:
            return []
        if not self._is_origin and self.lease.is_due(now, has_work=has_work):
            again = self.lease.to_say_again(now)
            if again is None:
                return [DrawNonce()]
            self.ask(again, now)
        if self._unsent is not None:
            nonce, self._unsent = self._unsent, None
            self._asked_of = frozenset(above)
            return [Send(peer, LeaseAsked(nonce, self.lease.is_urgent(now))) for peer in above]
        return [] if self._is_stranded else self._flush(above, now, is_signing=is_signing)

    def _flush(self, above: list[PeerId], now: Instant, *, is_signing: bool) -> list[Effect]:
        root = self._relay.flush(now)
        if root is None:
            return []
        if is_signing:
            return [SignLease(climb(root, ()))]
        return [Send(peer, LeaseAsked(root, self._relay.is_urgent)) for peer in above]

    def next_wakeup(self, now: Instant, *, has_work: bool) -> Instant | None:
        """When `wake` may have something to do; None while there is nobody to ask."""
        if not self._can_ask:
            return None
        own = None if self._is_origin else self.lease.next_wakeup(now, has_work=has_work)
        relayed = None if self._is_stranded else self._relay.next_wakeup()
        return min((time for time in (own, relayed) if time is not None), default=None)

    @property
    def _asks_for_itself(self) -> bool:
        """Whether its own nonce goes into no batch here: it must be known again after hours."""
        return self._role is Role.AGENT and self.lease.terms.is_carried

    def _known(self, said: LeasePayload, authority: Authority) -> Known:
        orders = self._orders
        listed = orders.listed(said.orders)
        self._missed = orders.missed_by(listed) if listed is not None else frozenset()
        lacking = frozenset(listed or ()) - set(orders.ids())
        return Known(authority, listed, self._missed, lacking)

    def _heal(self, sender: PeerId | None) -> list[Effect]:
        """Hand what an origin has lost, for it was set back, up to whoever brought its word."""
        if sender is None or not self._missed:
            return []
        held = set(self._orders.ids())
        return send_orders(sender, self._orders.records_but(held - self._missed))

    def _take(
        self, said: LeasePayload, path: tuple[bytes, ...], known: Known, now: Instant
    ) -> list[Effect]:
        was_live = self.lease.is_live(self.lease.terms.start, now)
        try:
            check_lease(said, known)
        except FiredoorError as error:
            before = self.lease.why
            self.lease.refuse(str(error), now)
            return [Tell("lease-refused", (("why", str(error)),))] if str(error) != before else []
        is_granted = self.lease.grant(said.nonces, path, now)
        return [Tell("leased")] if is_granted and not was_live else []

    def _asked_peers(self, open_ones: list[Session]) -> list[PeerId]:
        above = _upstreams(open_ones)
        if above or self._role is Role.MIRROR or self._asks_for_itself:
            return above
        agents = sorted(one.peer.id for one in open_ones if one.peer.role is Role.AGENT)
        # Others each time: some may reach no mirror, or may not want to.
        first = self._dice.below(len(agents)) if agents else 0
        return [*agents[first:], *agents[:first]][:NEIGHBOURS_ASKED_MAX]


def _upstreams(sessions: Iterable[Session]) -> list[PeerId]:
    return [one.peer.id for one in sessions if one.is_upstream and one.sync.is_open]

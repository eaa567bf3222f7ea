"""Leases as one node handles them: asks for its own, passes those of others on, judges answers.

Who asks goes up to whoever is nearer to the origin: a mirror's upstream, an endpoint's mirrors; and
where no mirror answers, to any endpoint, which passes it on if it reaches one itself.
The origin answers, and needs none. halt/lease.py has the rules, halt/nonces.py the batches.
"""

from collections.abc import Iterable

from firedoor.dice import Dice
from firedoor.effects import DrawNonce, Effect, Send, SignLease, Tell
from firedoor.errors import FiredoorError, Unavailable
from firedoor.halt.brake import Gate
from firedoor.halt.lease import (
    Known,
    Lease,
    LeasePayload,
    LeaseTerms,
    check_lease,
    read_lease,
)
from firedoor.halt.merkle import climb
from firedoor.halt.nonces import BATCH_SPAN, NonceRelay
from firedoor.halt.orderset import OrderSet
from firedoor.identity import PeerId, Role
from firedoor.session import Session
from firedoor.trust.keys import Authority
from firedoor.units import Instant, Span
from firedoor.wire.messages import LeaseAsked, LeaseGiven

# Endpoints that are asked at once where no mirror answers; any of them may reach one.
NEIGHBOURS_ASKED_MAX = 3


class Leasing:
    """The lease of a node, and the nonces that go through it."""

    __slots__ = ("_can_ask", "_dice", "_is_origin", "_me", "_relay", "_role", "lease", "missed")

    def __init__(
        self, me: PeerId, role: Role, terms: LeaseTerms, dice: Dice, *, is_origin: bool
    ) -> None:
        self._me = me
        self._dice = dice
        self._can_ask = is_origin
        self._role = role
        self._is_origin = is_origin
        # An endpoint's own nonce waits for nobody; the origin's bound is between two signatures.
        is_batching = role is Role.MIRROR and not is_origin
        window = BATCH_SPAN if is_batching else Span(0.0)
        self._relay = NonceRelay(window, terms.patience)
        self.lease = Lease(terms)
        self.missed: frozenset[bytes] = frozenset()

    def covers(self, gate: Gate, now: Instant) -> bool:
        """Whether there is a lease for what lies behind `gate`; if not, one is looked for."""
        spans = {Gate.FETCH: self.lease.terms.move}
        if self._is_origin or gate is Gate.SERVE:
            return True
        is_live = self.lease.is_live(spans.get(gate, self.lease.terms.start), now)
        if not is_live:
            self.lease.seek(now)
        return is_live

    def wanting(self) -> Unavailable:
        """The error that says that a lease is wanting, and why."""
        why = self.lease.why or "the last has run out; a new one is asked for"
        return Unavailable("waits for a lease", why=why)

    def ask(self, nonce: bytes, now: Instant) -> None:
        """The host has drawn `nonce` just now."""
        self.lease.ask(nonce, now)
        # An endpoint's own leaves at once, and says whether a mirror's batch may wait with it.
        is_urgent = self.lease.is_urgent(now)
        can_wait = self._role is Role.MIRROR and not is_urgent
        patience = self.lease.terms.renewal if can_wait else Span(0.0)
        self._relay.take(self._me, nonce, now, patience=patience, is_urgent=is_urgent)

    def asked(
        self,
        peer: PeerId,
        message: LeaseAsked,
        sessions: Iterable[Session],
        now: Instant,
        *,
        signs: bool,
    ) -> None:
        """`peer` wants a lease; it is passed on if that leads anywhere.

        `signs`: a beacon key here counts; a second origin's makes leases while none is above it.
        """
        if self._is_origin or signs or _upstreams(sessions):
            self._can_ask = True
            # A renewal can wait for those of the whole site; the origin's signatures have a bound.
            can_wait = not (self._is_origin or message.is_urgent)
            patience = self.lease.terms.renewal if can_wait else Span(0.0)
            nonce, is_urgent = message.nonce, message.is_urgent
            self._relay.take(peer, nonce, now, patience=patience, is_urgent=is_urgent)

    def opened(self, session: Session) -> None:
        """Orders are in step with a peer: what is open can be asked there."""
        self._can_ask = True
        if session.is_upstream or self._role is Role.AGENT:
            self._relay.ask_again()

    def closed(self, session: Session) -> None:
        """A conversation has ended."""
        self._relay.forget(session.peer.id)
        if session.is_upstream:
            self._relay.ask_again()
            self.lease.ask_soon()

    def given(
        self, message: LeaseGiven, state: tuple[Authority, OrderSet], now: Instant
    ) -> list[Effect]:
        """An answer came. `missed` then says what the origin has lost, by what it signed.

        Raises:
            TooLarge, Malformed, Untrusted: not the origin's, or no answer to what was asked.
        """
        self.missed = frozenset()
        if not self._relay.is_open:
            return []  # Nobody asked: an old answer, sent to cost us something.
        authority, orders = state
        said = read_lease(message.record, authority)
        listed = orders.listed(said.orders)
        self.missed = orders.missed_by(listed) if listed is not None else frozenset()
        lacking = frozenset(listed or ()) - set(orders.ids())
        known = Known(authority, listed, self.missed, lacking)
        effects: list[Effect] = []
        for peer, path in self._relay.answered(said.nonces, message.path):
            if peer == self._me:
                effects += self._take(said, path, known, now)
            else:
                effects.append(Send(peer, LeaseGiven(message.record, path)))
        return effects

    def wake(
        self, sessions: Iterable[Session], now: Instant, *, has_work: bool, signs: bool
    ) -> list[Effect]:
        """Ask for what is due, or have it signed; `signs` as in `asked`."""
        open_ones = [one for one in sessions if one.sync.is_open]
        above = [] if self._is_origin else self._asked_peers(open_ones)
        is_signing = self._is_origin or (signs and not above)
        self._can_ask = is_signing or bool(above)
        if not self._can_ask:
            return []
        if not self._is_origin and self.lease.is_due(now, has_work=has_work):
            return [DrawNonce()]
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
        times = [time for time in (own, self._relay.next_wakeup()) if time is not None]
        return min(times, default=None)

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
        if above or self._role is Role.MIRROR:
            return above
        agents = sorted(one.peer.id for one in open_ones if one.peer.role is Role.AGENT)
        # Others each time: some may reach no mirror, or may not want to.
        first = self._dice.below(len(agents)) if agents else 0
        return [*agents[first:], *agents[:first]][:NEIGHBOURS_ASKED_MAX]


def _upstreams(sessions: Iterable[Session]) -> list[PeerId]:
    return [one.peer.id for one in sessions if one.is_upstream and one.sync.is_open]

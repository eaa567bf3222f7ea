"""One site in virtual time: a mirror that holds a release, and endpoints that want it.

* Each endpoint is a `Swarm` as the agent runs it; nothing in it knows that time is virtual.
* A message takes LATENCY. A lost endpoint's connections break, and the mirror's roster follows.
* A liar announces everything and sends bytes that are not the piece.
* Same settings, same trace digest, on any machine.

It simulates delivery only: no orders, no brake, no installing, no loss of single messages.
"""

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import assert_never

from firedoor.dice import Dice
from firedoor.effects import (
    AddSignature,
    Cancel,
    Complete,
    Cut,
    DrawNonce,
    Drop,
    Effect,
    Fetch,
    Keep,
    KeepActed,
    KeepBeacon,
    KeepDecision,
    KeepForgotten,
    KeepKnown,
    KeepVouched,
    Send,
    SignLease,
    Tell,
)
from firedoor.identity import PeerId
from firedoor.limits import (
    NEIGHBOURS_DIALLED_MAX,
    REQUESTS_MAX,
    REQUESTS_PER_PEER_MAX,
    RETRY_SPAN,
)
from firedoor.pieces.inventory import Bits
from firedoor.swarm.scheduler import Swarm
from firedoor.units import KIB, Instant, Span
from simulator.clockwork import Clockwork
from simulator.network import LATENCY, Network, Transfer
from simulator.payload import MANIFEST, release

# When a site that is not done by then is called stuck: a working day.
END = Instant(28_800.0)

MIRROR = PeerId("f" * 32)

# A gigabyte at 100 Mbit/s takes 86 s; faults that come in the first two meet every small run.
LOST_WITHIN = Span(2.0)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """A site. Rates are bytes per second of one port; `liars` and `lost` are some of `endpoints`.

    `lost_within`: the lost leave at some instant before it.
    """

    endpoints: int
    pieces: int
    seed: int
    liars: int = 0
    lost: int = 0
    lost_within: Span = LOST_WITHIN
    piece_bytes: int = 256 * KIB
    port_rate: float = 12_500_000.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `mirror_copies`: bytes that left the mirror over those of the release."""

    digest: str
    mirror_copies: float
    complete: int
    wanted: int
    last_at: Instant
    bans: int
    breaches: tuple[str, ...]


@dataclass(slots=True)
class Endpoint:
    """One machine that runs a swarm. `told`: what each neighbour said that it holds."""

    swarm: Swarm
    have: Bits
    neighbours: dict[PeerId, None] = field(default_factory=dict)
    told: dict[PeerId, Bits] = field(default_factory=dict)
    in_flight: dict[int, PeerId] = field(default_factory=dict)
    is_complete: bool = False
    wakes_at: Instant | None = None


class Site:
    """A mirror, its endpoints and the network between them."""

    def __init__(self, settings: SiteSettings) -> None:
        self._settings = settings
        self._dice = Dice(settings.seed)
        self._pieces = release(settings.pieces, settings.piece_bytes)
        self._ids = [PeerId(f"{number:032x}") for number in range(1, settings.endpoints + 1)]
        self._liars = dict.fromkeys(self._ids[: settings.liars])
        self._roster = list(self._ids)
        self._endpoints = {
            peer: Endpoint(Swarm(peer, self._dice), Bits(settings.pieces))
            for peer in self._ids
            if peer not in self._liars
        }
        self._clockwork = Clockwork()
        sizes, rate = self._pieces.sizes, settings.port_rate
        self._network = Network(self._clockwork, self._arrive, sizes=sizes, rate=rate)
        self._trace, self._bans = blake2b(digest_size=16), 0
        self._last_at = self._now
        self._breaches: list[str] = []

    def run(self) -> Report:
        """Run until all are complete, nothing happens any more, or a working day is over."""
        self._start()
        self._clockwork.run(self._is_over, END)
        return Report(
            self._trace.hexdigest(),
            self._network.sent(MIRROR) / max(self._pieces.offsets[-1], 1),
            sum(one.is_complete for one in self._endpoints.values()),
            len(self._endpoints),
            self._last_at,
            self._bans,
            tuple(self._breaches),
        )

    # --- the site ------------------------------------------------------------------------------

    def _start(self) -> None:
        for peer in (MIRROR, *self._ids):
            self._network.open(peer)
        whole = Bits(self._settings.pieces)
        for piece in range(self._settings.pieces):
            whole.set(piece)
        for at, peer in enumerate(self._ids):
            # The ring keeps the site in one part whatever the dice say.
            dialled = [self._ids[(at + 1) % len(self._ids)]]
            dialled += [self._dice.pick(self._ids) for _ in range(NEIGHBOURS_DIALLED_MAX - 1)]
            for other in dialled:
                if other != peer:
                    self._join(peer, other)
        for peer, endpoint in [*self._endpoints.items()]:
            endpoint.neighbours[MIRROR] = None
            self._do(peer, endpoint.swarm.peer_joined(MIRROR, is_mirror=True, now=self._now))
            self._do(peer, endpoint.swarm.roster(tuple(self._roster), self._now))
            self._do(peer, endpoint.swarm.want(self._pieces, endpoint.have, self._now))
            for sender in endpoint.neighbours:
                if sender == MIRROR or sender in self._liars:
                    self._clockwork.later(LATENCY, self._bitfield, peer, sender, whole)
        for peer in self._ids[len(self._ids) - self._settings.lost :]:
            self._clockwork.later(
                Span(self._dice.fraction() * self._settings.lost_within), self._lose, peer
            )

    def _join(self, one: PeerId, other: PeerId) -> None:
        for me, peer in ((one, other), (other, one)):
            endpoint = self._endpoints.get(me)
            if endpoint is not None and peer not in endpoint.neighbours:
                endpoint.neighbours[peer] = None
                self._do(me, endpoint.swarm.peer_joined(peer, is_mirror=False, now=self._now))

    def _lose(self, peer: PeerId) -> None:
        gone = self._endpoints.pop(peer, None)
        if gone is None:
            return
        self._note(peer, "lost")
        self._roster.remove(peer)
        for transfer in self._network.close(peer):
            self._fail(transfer.client, transfer.number, is_lie=False)
        for number, server in gone.in_flight.items():
            self._network.withdraw(server, peer, number)
        for other, endpoint in [*self._endpoints.items()]:
            if peer in endpoint.neighbours:
                self._part(other, peer)
            self._do(other, endpoint.swarm.roster(tuple(self._roster), self._now))

    def _part(self, me: PeerId, peer: PeerId) -> None:
        endpoint = self._endpoints.get(me)
        if endpoint is not None:
            endpoint.neighbours.pop(peer, None)
            endpoint.told.pop(peer, None)
            self._do(me, endpoint.swarm.peer_left(peer, self._now))

    # --- messages ------------------------------------------------------------------------------

    def _bitfield(self, me: PeerId, sender: PeerId, bits: Bits) -> None:
        endpoint = self._endpoints.get(me)
        if endpoint is not None and sender in endpoint.neighbours:
            data = bits.to_bytes()
            endpoint.told[sender] = Bits.from_bytes(data, bits.size)
            self._do(me, endpoint.swarm.bitfield(sender, MANIFEST, data, self._now))

    def _have(self, me: PeerId, sender: PeerId, piece: int) -> None:
        endpoint = self._endpoints.get(me)
        if endpoint is not None and sender in endpoint.neighbours:
            endpoint.told.setdefault(sender, Bits(self._settings.pieces)).set(piece)
            self._do(me, endpoint.swarm.have(sender, MANIFEST, (piece,), self._now))

    # --- transfers -----------------------------------------------------------------------------

    def _arrive(self, server: PeerId, transfer: Transfer, piece: int) -> None:
        me, number = transfer.client, transfer.number
        endpoint = self._endpoints.get(me)
        if endpoint is None or number not in endpoint.in_flight:
            return
        if server in self._liars:
            self._fail(me, number, is_lie=True)
            return
        transfer.due -= 1
        is_new = not endpoint.have.has(piece)
        endpoint.have.set(piece)
        if is_new:
            for peer in endpoint.neighbours:
                self._clockwork.later(LATENCY, self._have, peer, me, piece)
        self._do(me, endpoint.swarm.fetched(number, (piece,), self._now))
        if not transfer.due and number in endpoint.in_flight:
            del endpoint.in_flight[number]
            self._do(me, endpoint.swarm.finished(number, self._now))

    def _fail(self, me: PeerId, number: int, *, is_lie: bool) -> None:
        endpoint = self._endpoints.get(me)
        if endpoint is None or number not in endpoint.in_flight:
            return
        self._network.withdraw(endpoint.in_flight.pop(number), me, number)
        swarm, now = endpoint.swarm, self._now
        self._do(me, swarm.failed(number, now, is_lie=is_lie, retry_after=RETRY_SPAN))

    # --- effects -------------------------------------------------------------------------------

    def _do(self, me: PeerId, effects: list[Effect]) -> None:
        endpoint = self._endpoints[me]
        for effect in effects:
            self._note(me, repr(effect))
            match effect:
                case Fetch():
                    self._fetch(me, endpoint, effect)
                case Cancel(number):
                    server = endpoint.in_flight.pop(number, None)
                    if server is not None:
                        self._network.withdraw(server, me, number)
                case Complete():
                    endpoint.is_complete = True
                    self._last_at = self._now
                case Tell(event):
                    self._bans += event == "peer-banned"
                case (
                    Send()
                    | Keep()
                    | KeepBeacon()
                    | KeepActed()
                    | (KeepForgotten() | KeepDecision() | KeepKnown() | KeepVouched())
                    | Cut()
                    | Drop()
                    | (DrawNonce() | SignLease() | AddSignature())
                ):
                    self._breaches.append(f"a swarm does not make {type(effect).__name__}")
                case _:
                    assert_never(effect)
        due = endpoint.swarm.next_wakeup()
        if due is not None and due != endpoint.wakes_at:
            endpoint.wakes_at = due
            self._clockwork.later(Span(due - self._now), self._wake, me)

    def _fetch(self, me: PeerId, endpoint: Endpoint, fetch: Fetch) -> None:
        asked = range(fetch.first, fetch.last)
        told = endpoint.told.get(fetch.peer)
        if told is None or not asked or not all(told.has(piece) for piece in asked):
            self._breaches.append(f"{fetch}: not announced")
        endpoint.in_flight[fetch.number] = fetch.peer
        to_peer = sum(peer == fetch.peer for peer in endpoint.in_flight.values())
        if to_peer > REQUESTS_PER_PEER_MAX or len(endpoint.in_flight) > REQUESTS_MAX:
            self._breaches.append(f"{fetch}: too many in flight")
        transfer = Transfer(fetch.number, me, deque(asked), len(asked))
        self._clockwork.later(LATENCY, self._serve, fetch.peer, transfer)

    def _serve(self, server: PeerId, transfer: Transfer) -> None:
        endpoint = self._endpoints.get(transfer.client)
        if endpoint is None or transfer.number not in endpoint.in_flight:
            return
        if not self._network.serve(server, transfer):
            self._fail(transfer.client, transfer.number, is_lie=False)

    def _wake(self, me: PeerId) -> None:
        endpoint = self._endpoints.get(me)
        if endpoint is None:
            return
        endpoint.wakes_at = None
        due = endpoint.swarm.next_wakeup()
        # An earlier event may have moved it: then there is a later event for it, or is now.
        is_due = due is not None and due <= self._now
        self._do(me, endpoint.swarm.wake(self._now) if is_due else [])

    # --- what is said of it --------------------------------------------------------------------

    @property
    def _now(self) -> Instant:
        return self._clockwork.now

    def _is_over(self) -> bool:
        return all(one.is_complete for one in self._endpoints.values())

    def _note(self, me: PeerId, text: str) -> None:
        self._trace.update(f"{self._now!r} {me} {text}\n".encode())

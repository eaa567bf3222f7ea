"""Whole sites of swarms in virtual time: everyone completes, within the bounds, whoever fails."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firedoor.dice import Dice
from firedoor.effects import Cancel, Complete, Effect, Fetch
from firedoor.identity import PeerId
from firedoor.limits import BATCH_BYTES, BATCH_PIECES_MAX, REQUESTS_MAX, REQUESTS_PER_PEER_MAX
from firedoor.pieces.inventory import Bits
from firedoor.swarm.demand import batches_of
from firedoor.swarm.scheduler import Swarm
from firedoor.units import KIB, MIB, Instant, Span
from simulator.fleet import Site, SiteSettings
from simulator.payload import MANIFEST, release

SEEDS = st.integers(0, 2**64 - 1)
PEERS = [PeerId(f"{number:032x}") for number in range(1, 13)]
PIECES = 24


@pytest.mark.slow
@given(seed=SEEDS, endpoints=st.integers(1, 10), pieces=st.integers(0, 40))
@settings(max_examples=25)
def test_an_honest_site_takes_each_batch_from_the_mirror_about_once(
    seed: int, endpoints: int, pieces: int
) -> None:
    report = Site(SiteSettings(endpoints, pieces, seed)).run()
    assert report.complete == report.wanted == endpoints
    assert report.breaches == ()
    assert report.bans == 0
    # Few batches leave some endpoint without one of its own, which may run out of patience once.
    assert report.mirror_copies <= 1.1 or pieces == 0


@pytest.mark.slow
@given(seed=SEEDS, liars=st.integers(0, 4), lost=st.integers(0, 4), pieces=st.integers(1, 40))
@settings(max_examples=25)
def test_everyone_that_stays_completes_among_liars_and_leavers(
    seed: int, liars: int, lost: int, pieces: int
) -> None:
    faults = SiteSettings(10, pieces, seed, liars=liars, lost=lost, lost_within=Span(0.5))
    report = Site(faults).run()
    assert report.complete == report.wanted >= 2
    assert report.breaches == ()


@pytest.mark.slow
def test_a_large_site_takes_one_copy_from_the_mirror() -> None:
    report = Site(SiteSettings(endpoints=32, pieces=256, seed=7)).run()
    assert report.complete == 32
    assert report.breaches == ()
    assert report.mirror_copies <= 1.02


@given(sizes=st.lists(st.integers(1, 2 * MIB), max_size=700))
def test_batches_cover_all_pieces_once_and_are_no_longer_than_they_must(sizes: list[int]) -> None:
    batches = batches_of(sizes)
    covered = [piece for batch in batches for piece in range(batch.first, batch.last)]
    assert covered == list(range(len(sizes)))
    for batch in batches:
        assert batch.last - batch.first <= BATCH_PIECES_MAX
        assert sum(sizes[batch.first : batch.last - 1]) < BATCH_BYTES


class Host:
    """The stupid twin: it only notes what was announced and what is in flight."""

    def __init__(self, seed: int) -> None:
        self.swarm = Swarm(PeerId("0" * 32), Dice(seed))
        self.told: dict[PeerId, set[int]] = {}
        self.in_flight: dict[int, Fetch] = {}
        self.have = Bits(PIECES)
        self.is_complete = False

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Fetch(number, peer, _, first, last):
                    assert number not in self.in_flight
                    assert first < last
                    assert set(range(first, last)) <= self.told[peer]
                    self.in_flight[number] = effect
                case Cancel(number):
                    del self.in_flight[number]
                case Complete():
                    assert self.have.count == PIECES
                    assert not self.in_flight
                    self.is_complete = True
                case _:
                    pass
        assert len(self.in_flight) <= REQUESTS_MAX
        for peer in PEERS:
            asked = [one for one in self.in_flight.values() if one.peer == peer]
            assert len(asked) <= REQUESTS_PER_PEER_MAX


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("join", "leave", "have", "piece", "end", "fail", "lie", "roster", "wake")),
        st.integers(0, 2**16),
        st.floats(0, 3),
    ),
    max_size=120,
)


def step(host: Host, kind: str, number: int, now: Instant) -> None:
    """One thing that may happen to a swarm; `number` picks to whom."""
    swarm, peer = host.swarm, PEERS[number % len(PEERS)]
    numbers = list(host.in_flight)
    request = host.in_flight[numbers[number % len(numbers)]] if numbers else None
    match kind:
        case "join":
            host.told[peer] = set()
            host.do(swarm.peer_joined(peer, number % 5 == 0, now))
        case "leave":
            host.told.pop(peer, None)
            host.do(swarm.peer_left(peer, now))
        case "have" if peer in host.told:
            first = number % PIECES
            pieces = tuple(range(first, min(first + 7, PIECES)))
            host.told[peer].update(pieces)
            host.do(swarm.have(peer, MANIFEST, pieces, now))
        case "piece" if request is not None:
            piece = request.first + number % (request.last - request.first)
            host.do(swarm.fetched(request.number, (piece,), now))
        case "end" if request is not None:
            pieces = tuple(range(request.first, request.last))
            host.do(swarm.fetched(request.number, pieces, now))
            host.in_flight.pop(request.number)
            host.do(swarm.finished(request.number, now))
        case "fail" | "lie" if request is not None:
            del host.in_flight[request.number]
            is_lie = kind == "lie"
            failed = swarm.failed(request.number, now, is_lie=is_lie, retry_after=Span(0.1))
            host.do(failed)
        case "roster":
            host.do(swarm.roster(tuple(PEERS[: number % len(PEERS)]), now))
        case _:
            host.do(swarm.wake(now))


@given(seed=SEEDS, steps=STEPS)
def test_whatever_happens_the_bounds_hold_and_the_end_is_reached(
    seed: int, steps: list[tuple[str, int, float]]
) -> None:
    host, now = Host(seed), Instant(0.0)
    host.do(host.swarm.want(release(PIECES, 256 * KIB), host.have, now))
    for kind, number, span in steps:
        now = Instant(now + span)
        step(host, kind, number, now)
    # One honest mirror that was never met before brings whatever is left.
    rescuer = PeerId("e" * 32)
    host.told[rescuer] = set(range(PIECES))
    host.do(host.swarm.peer_joined(rescuer, is_mirror=True, now=now))
    whole = Bits(PIECES)
    for piece in range(PIECES):
        whole.set(piece)
    host.do(host.swarm.bitfield(rescuer, MANIFEST, whole.to_bytes(), now))
    for _ in range(1000):
        if host.is_complete:
            break
        mine = [one for one in host.in_flight.values() if one.peer == rescuer]
        if mine:
            host.do(host.swarm.fetched(mine[0].number, (*range(mine[0].first, mine[0].last),), now))
            host.in_flight.pop(mine[0].number)
            host.do(host.swarm.finished(mine[0].number, now))
        else:
            due = host.swarm.next_wakeup()
            assert due is not None, "stuck: something is missing and nothing is due"
            now = Instant(max(now, due))
            host.do(host.swarm.wake(now))
    assert host.is_complete
    assert host.swarm.wanted() == ()

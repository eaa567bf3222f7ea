"""The swarm by exact effects: who is asked, what follows from an answer, and when it gives up."""

import pytest

from firedoor.dice import Dice
from firedoor.effects import Cancel, Complete, Effect, Fetch, Tell
from firedoor.errors import Malformed
from firedoor.identity import PeerId
from firedoor.limits import (
    BATCH_BYTES,
    BATCH_PIECES_MAX,
    GAP_BYTES,
    REQUEST_SPAN_MAX,
    REQUEST_SPAN_MIN,
)
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.demand import Batch, batches_of
from firedoor.swarm.policy import is_owner
from firedoor.swarm.scheduler import Swarm
from firedoor.swarm.standing import FIRST_RATE, Standing
from firedoor.units import MIB, Instant, Span

ME, A, B, C = (PeerId(letter * 32) for letter in "0abc")
MIRROR = PeerId("f" * 32)
M = "1" * 64
N = "2" * 64


def at(seconds: float) -> Instant:
    return Instant(seconds)


T = at(100)


def release(count: int, size: int = MIB, manifest: str = M) -> PieceMap:
    """A release of `count` pieces; with pieces of 1 MiB each is a batch of its own."""
    digests = tuple(bytes([index >> 8, index & 255]) * 16 for index in range(count))
    offsets = tuple(index * size for index in range(count + 1))
    return PieceMap(manifest, digests, (size,) * count, offsets)


def bits(count: int, *pieces: int) -> Bits:
    made = Bits(count)
    for piece in pieces:
        made.set(piece)
    return made


def all_of(count: int) -> bytes:
    return bits(count, *range(count)).to_bytes()


def wanting(count: int, *peers: PeerId, size: int = MIB) -> Swarm:
    """A swarm that wants a release and has met these peers, who announced nothing yet."""
    swarm = Swarm(ME, Dice(1))
    for peer in peers:
        assert swarm.peer_joined(peer, peer == MIRROR, T) == []
    assert swarm.want(release(count, size), bits(count), T) == []
    return swarm


def fail(
    swarm: Swarm, number: int, now: Instant, *, is_lie: bool = False, retry: float = 0.1
) -> list[Effect]:
    return swarm.failed(number, now, is_lie=is_lie, retry_after=Span(retry))


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_ends_with_the_piece_that_reaches_the_bound() -> None:
    third = BATCH_BYTES // 3
    assert batches_of([third, third, third, third]) == (Batch(0, 4),)
    assert batches_of([BATCH_BYTES, 1, 1]) == (Batch(0, 1), Batch(1, 3))
    assert batches_of([1] * (BATCH_PIECES_MAX + 1)) == (
        Batch(0, BATCH_PIECES_MAX),
        Batch(BATCH_PIECES_MAX, BATCH_PIECES_MAX + 1),
    )
    assert batches_of([]) == ()


# --- wanting -----------------------------------------------------------------------------------


def test_a_release_of_which_nothing_is_missing_is_complete_at_once() -> None:
    swarm = Swarm(ME, Dice(1))
    assert swarm.want(release(2), bits(2, 0, 1), T) == [Complete(M)]
    assert swarm.wanted() == ()
    assert swarm.next_wakeup() is None


def test_a_release_without_pieces_is_complete_at_once() -> None:
    assert Swarm(ME, Dice(1)).want(release(0), bits(0), T) == [Complete(M)]


def test_what_a_peer_announced_is_fetched_from_it() -> None:
    swarm = wanting(1, A)
    assert swarm.bitfield(A, M, all_of(1), T) == [Fetch(1, A, M, 0, 1)]
    assert swarm.fetched(1, (0,), T) == []
    assert swarm.finished(1, T) == [Complete(M)]
    assert swarm.wanted() == ()


def test_a_request_goes_from_the_first_missing_piece_to_the_last() -> None:
    swarm = Swarm(ME, Dice(1))
    swarm.peer_joined(A, is_mirror=False, now=T)
    swarm.want(release(8, GAP_BYTES // 2), bits(8, 0, 1, 4, 7), T)
    assert swarm.bitfield(A, M, all_of(8), T) == [Fetch(1, A, M, 2, 7)]


def test_what_is_here_is_not_asked_for_again_where_two_requests_cost_less() -> None:
    swarm = Swarm(ME, Dice(1))
    swarm.peer_joined(A, is_mirror=False, now=T)
    have = bits(8, 0, 1, 4, 5, 6)
    swarm.want(release(8, GAP_BYTES // 2), have, T)
    assert swarm.bitfield(A, M, all_of(8), T) == [Fetch(1, A, M, 2, 4)]
    assert swarm.fetched(1, (2, 3), T) == []
    assert swarm.finished(1, T) == [Fetch(2, A, M, 7, 8)]


def test_a_peer_that_stands_idle_is_asked_for_a_part_of_a_batch() -> None:
    swarm = wanting(4, A, size=MIB // 4)
    assert swarm.have(A, M, (1, 3), T) == [Fetch(1, A, M, 1, 2)]
    assert swarm.have(A, M, (0,), T) == []


def test_pieces_that_two_peers_hold_in_parts_add_up() -> None:
    swarm = wanting(4, A, B, size=MIB // 4)
    assert swarm.have(A, M, (0, 1), T) == [Fetch(1, A, M, 0, 2)]
    assert swarm.have(B, M, (2, 3), T) == []
    swarm.fetched(1, (0, 1), T)
    assert swarm.finished(1, T) == [Fetch(2, B, M, 2, 4)]


def test_a_second_want_takes_the_hosts_word_for_what_is_held() -> None:
    swarm = wanting(2, A)
    assert swarm.want(release(2), bits(2, 0), T) == []
    assert swarm.bitfield(A, M, all_of(2), T) == [Fetch(1, A, M, 1, 2)]
    lost: Bits = bits(2)
    assert swarm.want(release(2), lost, T) == [Fetch(2, A, M, 0, 1)]


def test_the_oldest_demand_comes_first() -> None:
    swarm = wanting(2, A)
    swarm.want(release(1, manifest=N), bits(1), T)
    assert swarm.wanted() == (M, N)
    assert swarm.bitfield(A, N, all_of(1), T) == [Fetch(1, A, N, 0, 1)]
    assert [type(one) for one in swarm.bitfield(A, M, all_of(2), T)] == [Fetch]
    swarm.fetched(1, (0,), T)
    done = swarm.finished(1, T)
    assert done[0] == Complete(N)
    assert isinstance(done[1], Fetch)
    assert done[1].manifest == M


def test_a_dropped_release_cancels_what_is_in_flight_and_nothing_else() -> None:
    swarm = wanting(1, A, B)
    swarm.want(release(1, manifest=N), bits(1), T)
    swarm.bitfield(A, M, all_of(1), T)
    assert swarm.bitfield(B, N, all_of(1), T) == [Fetch(2, B, N, 0, 1)]
    assert swarm.drop(M, T) == [Cancel(1)]
    assert swarm.wanted() == (N,)
    assert swarm.fetched(1, (0,), T) == []
    assert swarm.finished(1, T) == []
    assert fail(swarm, 1, T) == []


def test_a_bitfield_of_another_size_is_malformed() -> None:
    swarm = wanting(9, A)
    with pytest.raises(Malformed):
        swarm.bitfield(A, M, b"\xff", T)
    with pytest.raises(Malformed):
        swarm.bitfield(A, M, b"\xff\xff", T)


def test_a_piece_that_does_not_exist_is_malformed() -> None:
    swarm = wanting(2, A)
    with pytest.raises(Malformed):
        swarm.have(A, M, (0, 2), T)
    # Nothing of a malformed message counts.
    assert swarm.holders(M) == (0, 0)


def test_news_of_what_is_not_wanted_or_of_whom_is_not_known_is_ignored() -> None:
    swarm = wanting(1, A)
    assert swarm.bitfield(A, N, b"\xff\xff", T) == []
    assert swarm.have(A, N, (7,), T) == []
    assert swarm.bitfield(B, M, all_of(1), T) == []
    assert swarm.have(B, M, (0,), T) == []
    assert swarm.holders(M) == (0,)
    assert swarm.holders(N) == ()


def test_holders_are_endpoints_with_the_whole_batch() -> None:
    swarm = wanting(4, A, B, MIRROR, size=MIB // 2)
    swarm.bitfield(A, M, all_of(4), T)
    swarm.have(B, M, (0, 1, 2), T)
    swarm.have(B, M, (0, 1), T)
    swarm.bitfield(MIRROR, M, all_of(4), T)
    assert swarm.holders(M) == (2, 1)
    swarm.bitfield(A, M, bits(4, 2, 3).to_bytes(), T)
    assert swarm.holders(M) == (1, 1)
    swarm.peer_left(A, T)
    swarm.peer_left(MIRROR, T)
    assert swarm.holders(M) == (1, 0)


# --- choice ------------------------------------------------------------------------------------


def test_the_rarest_batch_comes_first() -> None:
    swarm = wanting(4, A, B)
    swarm.have(B, M, (0,), T)
    swarm.have(B, M, (1,), T)
    # B is busy with 0 and 1 now; 3 is held by A alone, 2 by both.
    swarm.have(B, M, (2,), T)
    assert swarm.bitfield(A, M, bits(4, 2, 3).to_bytes(), T) == [
        Fetch(3, A, M, 3, 4),
        Fetch(4, A, M, 2, 3),
    ]


def test_a_mirror_is_asked_last() -> None:
    swarm = Swarm(ME, Dice(1))
    swarm.peer_joined(MIRROR, is_mirror=True, now=T)
    swarm.peer_joined(A, is_mirror=False, now=T)
    swarm.want(release(3), bits(3), T)
    swarm.have(A, M, (0, 1, 2), T)
    # A has two in flight already; only what is left may come from the mirror.
    asked = swarm.bitfield(MIRROR, M, all_of(3), T)
    assert [fetch.peer for fetch in asked if isinstance(fetch, Fetch)] == [MIRROR]


def test_without_another_endpoint_everything_comes_from_the_mirror_at_once() -> None:
    swarm = wanting(2, MIRROR)
    assert swarm.roster((ME,), T) == []
    asked = swarm.bitfield(MIRROR, M, all_of(2), T)
    assert len(asked) == 2


def test_an_endpoint_takes_only_what_it_owns_from_the_mirror() -> None:
    swarm = wanting(64, MIRROR)
    swarm.roster((ME, A, B, C), T)
    pieces = release(64)
    owned = [at for at in range(64) if is_owner(pieces.digests[at], ME, (A, B, C))]
    assert 4 < len(owned) < 40
    effects, asked = swarm.bitfield(MIRROR, M, all_of(64), T), []
    while effects:
        fetch = effects.pop(0)
        assert isinstance(fetch, Fetch)
        asked.append(fetch.first)
        swarm.fetched(fetch.number, (fetch.first,), T)
        effects += swarm.finished(fetch.number, T)
    assert sorted(asked) == owned


def test_each_batch_has_exactly_one_owner() -> None:
    everyone = (ME, A, B, C)
    for digest in release(64).digests:
        owners = [me for me in everyone if is_owner(digest, me, set(everyone) - {me})]
        assert len(owners) == 1


def starved(count: int) -> Swarm:
    """A swarm with a mirror that owns none of the first batch's pieces, at the end of patience."""
    swarm = wanting(count, MIRROR, A)
    others = tuple(PeerId(f"{number:032x}") for number in range(1, 1000))
    assert swarm.roster((A, *others), T) == []
    assert swarm.bitfield(MIRROR, M, all_of(count), T) == []
    assert swarm.next_wakeup() == at(101)
    assert swarm.wake(at(100.9)) == []
    return swarm


def test_a_demand_that_starves_takes_anything_from_the_mirror() -> None:
    swarm = starved(1)
    assert swarm.wake(at(101)) == [
        Tell("demand-starving", (("manifest", M),)),
        Fetch(1, MIRROR, M, 0, 1),
    ]


def test_news_from_a_neighbour_ends_starving() -> None:
    swarm = starved(8)
    _, *asked = swarm.wake(at(101))
    first = next(one for one in asked if isinstance(one, Fetch))
    assert first.peer == MIRROR
    # Whatever the neighbour announces of what is missing, it is fetched from there.
    news = swarm.have(A, M, tuple(range(8)), at(101.5))
    assert [one.peer for one in news if isinstance(one, Fetch)] == [A, A]
    swarm.fetched(first.number, (first.first,), at(101.6))
    assert swarm.finished(first.number, at(101.6)) == []


def test_a_mirror_that_still_brings_news_makes_nobody_starve() -> None:
    swarm = wanting(2, MIRROR)
    swarm.roster(tuple(PeerId(f"{number:032x}") for number in range(1, 1000)), T)
    swarm.have(MIRROR, M, (0,), T)
    assert swarm.have(MIRROR, M, (1,), at(100.9)) == []
    assert swarm.wake(at(101)) == []
    assert swarm.next_wakeup() == at(101.9)


def test_a_bitfield_said_again_and_again_does_not_hold_off_the_mirror() -> None:
    swarm = starved(1)
    assert swarm.bitfield(A, M, bits(1).to_bytes(), at(100.9)) == []
    assert swarm.bitfield(MIRROR, M, all_of(1), at(100.9)) == []
    assert len(swarm.wake(at(101))) == 2


def test_a_peer_that_never_answers_does_not_hold_off_the_mirror() -> None:
    swarm = starved(4)
    assert swarm.have(A, M, (0,), at(100.9)) == [Fetch(1, A, M, 0, 1)]
    assert swarm.have(A, M, (1,), at(105)) == [Fetch(2, A, M, 1, 2)]
    assert swarm.wake(at(107)) == []
    # The second request is still in flight, but to a peer that has let a deadline pass.
    missed = at(100.9 + 4 * MIB / FIRST_RATE)
    assert [*map(type, swarm.wake(missed))] == [Cancel, Tell, Fetch, Fetch]


def test_nobody_starves_for_what_no_mirror_has() -> None:
    swarm = wanting(1, MIRROR)
    assert swarm.wake(at(101)) == []
    assert swarm.next_wakeup() is None


# --- bounds ------------------------------------------------------------------------------------


def test_one_peer_gets_two_requests_at_once() -> None:
    swarm = wanting(8, A)
    assert len(swarm.bitfield(A, M, all_of(8), T)) == 2


def test_all_peers_together_get_sixteen() -> None:
    peers = [PeerId(f"{number:032x}") for number in range(1, 21)]
    swarm = wanting(64, *peers)
    asked = [effect for peer in peers for effect in swarm.bitfield(peer, M, all_of(64), T)]
    assert len(asked) == 16


def test_two_places_are_kept_for_mirrors() -> None:
    peers = [PeerId(f"{number:032x}") for number in range(1, 21)]
    swarm = wanting(64, MIRROR, *peers)
    asked = [effect for peer in peers for effect in swarm.bitfield(peer, M, all_of(64), T)]
    assert len(asked) == 14
    assert len(swarm.bitfield(MIRROR, M, all_of(64), T)) == 2


# --- failures ----------------------------------------------------------------------------------


def test_a_liar_is_banned_and_its_requests_go_elsewhere() -> None:
    swarm = wanting(2, A, B)
    swarm.bitfield(A, M, all_of(2), T)
    swarm.have(B, M, (0,), T)
    effects = fail(swarm, 1, T, is_lie=True)
    assert effects[:2] == [
        Cancel(2),
        Tell("peer-banned", (("peer", A), ("manifest", M))),
    ]
    assert effects[2:] == [Fetch(3, B, M, 0, 1)]
    assert swarm.peer_left(A, T) == []
    assert swarm.peer_joined(A, is_mirror=False, now=T) == []
    assert swarm.bitfield(A, M, all_of(2), T) == []


def test_a_liars_share_of_the_mirror_falls_to_the_others() -> None:
    swarm = wanting(64, MIRROR, A)
    swarm.roster((ME, A), T)
    swarm.have(A, M, (0,), T)
    fail(swarm, 1, T, is_lie=True)
    asked = swarm.bitfield(MIRROR, M, all_of(64), T)
    count = 0
    while asked:
        fetch = asked.pop(0)
        assert isinstance(fetch, Fetch)
        count += 1
        swarm.fetched(fetch.number, (fetch.first,), T)
        asked += [one for one in swarm.finished(fetch.number, T) if isinstance(one, Fetch)]
    assert count == 64


def test_a_peer_that_failed_is_asked_again_later_and_ever_later() -> None:
    swarm = wanting(1, A)
    swarm.bitfield(A, M, all_of(1), T)
    assert fail(swarm, 1, T) == []
    assert swarm.next_wakeup() == at(100.1)
    assert swarm.wake(at(100.1)) == [Fetch(2, A, M, 0, 1)]
    assert fail(swarm, 2, at(100.1)) == []
    assert swarm.wake(at(100.2)) == []
    assert swarm.wake(at(100.4)) == [Fetch(3, A, M, 0, 1)]


def test_a_piece_that_arrives_clears_earlier_failures() -> None:
    swarm = wanting(2, A)
    swarm.have(A, M, (0,), T)
    fail(swarm, 1, T)
    swarm.wake(at(101))
    swarm.fetched(2, (0,), at(101))
    swarm.finished(2, at(101))
    swarm.have(A, M, (1,), at(102))
    fail(swarm, 3, at(102))
    assert swarm.next_wakeup() == at(102.1)


def test_a_lost_peers_requests_go_elsewhere() -> None:
    swarm = wanting(1, A, B)
    swarm.bitfield(A, M, all_of(1), T)
    assert swarm.bitfield(B, M, all_of(1), T) == []
    assert swarm.peer_left(A, T) == [Cancel(1), Fetch(2, B, M, 0, 1)]


def test_a_peer_that_joins_again_starts_anew() -> None:
    swarm = wanting(1, A)
    swarm.bitfield(A, M, all_of(1), T)
    assert swarm.peer_joined(A, is_mirror=False, now=T) == [Cancel(1)]
    assert swarm.holders(M) == (0,)


def test_a_missed_deadline_is_cancelled_and_asked_elsewhere() -> None:
    swarm = wanting(2, A, B)
    assert swarm.have(A, M, (0,), T) == [Fetch(1, A, M, 0, 1)]
    # Piece 1 is held by nobody, so there is no end-game.
    deadline = at(100 + 4 * MIB / FIRST_RATE)
    assert swarm.wake(at(101)) == []
    assert swarm.next_wakeup() == deadline
    assert swarm.wake(deadline) == [Cancel(1)]
    assert swarm.have(B, M, (0,), deadline) == [Fetch(2, B, M, 0, 1)]
    fail(swarm, 2, deadline, retry=60)
    assert swarm.wake(at(deadline + 1)) == [Fetch(3, A, M, 0, 1)]


def test_progress_moves_the_deadline() -> None:
    swarm = wanting(5, A, size=MIB // 4)
    assert swarm.have(A, M, (0, 1, 2, 3), T) == [Fetch(1, A, M, 0, 4)]
    swarm.fetched(1, (0,), at(120))
    assert swarm.wake(at(132)) == []
    assert swarm.next_wakeup() == at(152)


def test_a_deadline_passed_unseen_is_still_due() -> None:
    swarm = wanting(2, A, B)
    swarm.have(A, M, (0,), T)
    late = at(1000)
    swarm.have(B, M, (0,), late)
    due = swarm.next_wakeup()
    assert due is not None
    assert due <= late
    assert swarm.wake(late) == [Cancel(1), Fetch(2, B, M, 0, 1)]


def test_a_peer_whose_pause_ended_unseen_is_still_due() -> None:
    swarm = wanting(2, A, B)
    swarm.have(A, M, (0,), T)
    fail(swarm, 1, T)
    assert swarm.have(B, M, (1,), at(100.2)) == [Fetch(2, B, M, 1, 2)]
    assert swarm.next_wakeup() == at(100.1)
    assert swarm.wake(at(100.2)) == [Fetch(3, A, M, 0, 1)]


def test_pieces_of_a_cancelled_request_still_count() -> None:
    swarm = wanting(1, A)
    swarm.bitfield(A, M, all_of(1), T)
    swarm.peer_left(A, T)
    assert swarm.fetched(1, (0,), T) == [Complete(M)]


def test_a_piece_that_the_host_noted_first_is_no_surprise() -> None:
    swarm = Swarm(ME, Dice(1))
    swarm.peer_joined(A, is_mirror=False, now=T)
    have = bits(1)
    swarm.want(release(1), have, T)
    swarm.bitfield(A, M, all_of(1), T)
    have.set(0)
    assert swarm.fetched(1, (0,), T) == []
    assert swarm.finished(1, T) == [Complete(M)]


def test_a_request_that_ends_well_without_its_pieces_is_made_again() -> None:
    swarm = wanting(1, A)
    swarm.bitfield(A, M, all_of(1), T)
    assert swarm.finished(1, T) == [Fetch(2, A, M, 0, 1)]


# --- the end-game ------------------------------------------------------------------------------


def test_an_idle_peer_is_asked_for_an_old_request_too_and_the_first_answer_wins() -> None:
    swarm = wanting(1, A, B, C)
    swarm.bitfield(A, M, all_of(1), T)
    swarm.bitfield(B, M, all_of(1), T)
    assert swarm.bitfield(C, M, all_of(1), T) == []
    assert swarm.next_wakeup() == at(101)
    # At most two at once: C stays idle.
    assert swarm.wake(at(101)) == [Fetch(2, B, M, 0, 1)]
    assert swarm.wake(at(105)) == []
    assert swarm.fetched(2, (0,), at(106)) == [Cancel(1)]
    assert swarm.finished(2, at(106)) == [Complete(M)]


def test_there_is_no_end_game_while_something_is_not_in_flight() -> None:
    swarm = wanting(2, A, B)
    swarm.have(A, M, (0,), T)
    swarm.have(B, M, (0,), T)
    assert swarm.wake(at(105)) == []


def test_a_mirror_joins_the_end_game_only_when_nothing_arrives() -> None:
    swarm = wanting(2, A, MIRROR, size=MIB // 2)
    swarm.roster(tuple(PeerId(f"{number:032x}") for number in range(1, 1000)), T)
    assert swarm.bitfield(A, M, all_of(2), T) == [Fetch(1, A, M, 0, 2)]
    swarm.bitfield(MIRROR, M, all_of(2), T)
    swarm.fetched(1, (0,), at(100.9))
    assert swarm.wake(at(101)) == []
    assert swarm.next_wakeup() == at(101.9)
    assert swarm.wake(at(101.9)) == [Fetch(2, MIRROR, M, 1, 2)]


# --- standing ----------------------------------------------------------------------------------


def test_the_faster_peer_is_asked_first() -> None:
    swarm = wanting(3, A, B)
    swarm.have(A, M, (0,), T)
    swarm.have(B, M, (1,), T)
    swarm.fetched(2, (1,), at(100.1))
    swarm.finished(2, at(100.1))
    swarm.fetched(1, (0,), at(101))
    swarm.finished(1, at(101))
    fail_a = swarm.have(A, M, (2,), at(101))
    swarm.have(B, M, (2,), at(101))
    assert fail_a == [Fetch(3, A, M, 2, 3)]
    # Both are free again at 102.5; B has shown the higher rate.
    fail(swarm, 3, at(101), retry=60)
    fail(swarm, 4, at(101), retry=60)
    assert swarm.wake(at(161)) == [Fetch(5, B, M, 2, 3)]


def test_patience_follows_the_measured_rate_within_its_bounds() -> None:
    standing = Standing(A, is_mirror=False)
    assert standing.patience(MIB) == 4 * MIB / FIRST_RATE
    for second in range(1, 50):
        standing.delivered(100 * MIB, at(second - 1), at(second))
    assert standing.patience(MIB) == REQUEST_SPAN_MIN
    for _ in range(60):
        standing.missed(Span(1), at(50))
    assert standing.patience(MIB) == REQUEST_SPAN_MAX


def test_two_requests_on_one_line_are_not_measured_twice() -> None:
    standing = Standing(A, is_mirror=False, rate=1000.0)
    standing.delivered(1000, at(0), at(1))
    standing.delivered(1000, at(0), at(2))
    assert standing.rate == 1000.0
    standing.delivered(1000, at(2), at(2))
    assert standing.rate == 1000.0

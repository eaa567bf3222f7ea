"""Leases by stick: what a mirror keeps and believes, and how long a nonce is good."""

from hashlib import sha256

import pytest

from firedoor.dice import Dice
from firedoor.errors import Malformed, Untrusted
from firedoor.halt.carried import CarriedLeases, root_of_questions
from firedoor.halt.lease import AIR_GAPPED, CARRIED_AGAIN_SPAN, CARRIED_FRESH_SPAN, Lease
from firedoor.halt.merkle import climb
from firedoor.halt.orderset import OrderSet
from firedoor.halt.sync import OrderSync
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import PATH_STEPS_MAX
from firedoor.node.leasing import Leasing
from firedoor.node.session import Session
from firedoor.node.settings import NodeSettings
from firedoor.units import Instant
from firedoor.wire.messages import LeaseGiven
from firedoor.wire.stick import CARRIED_MAX, Answer, Question
from tests.unit.firedoor.halt.test_lease import AUTHORITY

HOUR = 3600.0


def nonce(number: int) -> bytes:
    return sha256(number.to_bytes(4, "big")).digest()


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def asked(count: int) -> CarriedLeases:
    leases = CarriedLeases()
    for number in range(count):
        assert leases.ask(peer(number), nonce(number)) is None
    return leases


# --- at the mirror --------------------------------------------------------------------------------


def test_every_peer_s_answer_leads_from_its_own_nonce_to_what_was_signed() -> None:
    leases = asked(5)
    questions = leases.questions()
    above = (b"r" + nonce(99), b"a")
    signed = climb(root_of_questions(questions), above)
    given = leases.take(Answer(b"record", above, questions), signed)
    assert sorted(given) == [peer(number) for number in range(5)]
    assert all(climb(nonce(n), given[peer(n)].path) == signed for n in range(5))


def test_a_mirror_that_has_started_anew_takes_the_answer_to_what_it_asked_before() -> None:
    questions = asked(2).questions()
    signed = climb(root_of_questions(questions), ())
    fresh = CarriedLeases()
    given = fresh.take(Answer(b"record", (), questions), signed)
    assert fresh.ask(peer(1), nonce(77)) == given[peer(1)]


def test_who_is_away_when_the_stick_comes_home_hears_of_it_later() -> None:
    leases = asked(2)
    questions = leases.questions()
    leases.take(Answer(b"record", (), questions), climb(root_of_questions(questions), ()))
    assert isinstance(leases.ask(peer(0), nonce(50)), LeaseGiven)
    assert leases.ask(peer(9), nonce(51)) is None


@pytest.mark.parametrize("change", ["another nonce", "one peer less", "peers changed about"])
def test_an_answer_to_other_questions_is_refused_and_the_old_one_stays(change: str) -> None:
    leases = asked(3)
    questions = leases.questions()
    signed = climb(root_of_questions(questions), ())
    leases.take(Answer(b"old", (), questions), signed)
    bent = {
        "another nonce": (Question(peer(0), nonce(9)), *questions[1:]),
        "one peer less": questions[1:],
        "peers changed about": tuple(reversed(questions)),
    }[change]
    with pytest.raises(Untrusted, match="answer to these nonces"):
        leases.take(Answer(b"new", (), bent), signed)
    kept = leases.ask(peer(0), nonce(10))
    assert kept is not None
    assert kept.record == b"old"


def test_a_stick_that_gives_one_peer_s_lease_to_another_gives_it_to_nobody() -> None:
    questions = asked(2).questions()
    signed = climb(root_of_questions(questions), ())
    swapped = tuple(
        Question(one.peer, other.nonce)
        for one, other in zip(questions, reversed(questions), strict=True)
    )
    lease = Lease(AIR_GAPPED)
    lease.ask(nonce(0), Instant(0.0))
    with pytest.raises(Untrusted):
        CarriedLeases().take(Answer(b"r", (), swapped), signed)
    # And were the tree over swapped names, the path would not lead from this peer's nonce.
    answer = Answer(b"r", (), swapped)
    root = climb(root_of_questions(swapped), ())
    path = CarriedLeases().take(answer, root)[peer(0)].path
    assert not lease.grant(root, path, Instant(1.0))


def test_an_endless_path_is_refused() -> None:
    questions = asked(8).questions()
    path = (b"a",) * PATH_STEPS_MAX
    with pytest.raises(Malformed, match="path of"):
        CarriedLeases().take(
            Answer(b"record", path, questions), climb(root_of_questions(questions), path)
        )


def test_a_mirror_keeps_one_nonce_a_peer_and_lets_go_of_the_longest_silent() -> None:
    leases = asked(CARRIED_MAX)
    leases.ask(peer(0), nonce(12345))
    leases.ask(peer(CARRIED_MAX), nonce(1))
    questions = leases.questions()
    assert len(questions) == CARRIED_MAX
    assert questions[0] == Question(peer(0), nonce(12345))
    assert peer(1) not in {one.peer for one in questions}


# --- the lease ------------------------------------------------------------------------------------


def test_an_endpoint_always_has_a_young_nonce_open_whether_it_has_work_or_not() -> None:
    lease = Lease(AIR_GAPPED)
    assert lease.is_due(Instant(0.0), has_work=False)
    lease.ask(nonce(1), Instant(0.0))
    assert not lease.is_due(Instant(CARRIED_AGAIN_SPAN - 1), has_work=True)
    assert lease.is_due(Instant(CARRIED_AGAIN_SPAN), has_work=False)
    assert lease.to_say_again(Instant(CARRIED_AGAIN_SPAN)) == nonce(1)
    assert lease.to_say_again(Instant(CARRIED_FRESH_SPAN)) is None


def test_a_nonce_that_is_said_again_counts_from_its_first_time() -> None:
    lease = Lease(AIR_GAPPED)
    lease.ask(nonce(1), Instant(0.0))
    lease.ask(nonce(1), Instant(60.0))
    assert lease.grant(climb(nonce(1), ()), (), Instant(HOUR))
    assert lease.age(Instant(HOUR)) == HOUR


def test_any_nonce_of_the_last_day_may_still_be_answered_and_the_newest_answer_counts() -> None:
    lease = Lease(AIR_GAPPED)
    for number in range(24):
        lease.ask(nonce(number), Instant(number * HOUR))
    now = Instant(23.5 * HOUR)
    assert lease.grant(climb(nonce(5), ()), (), now)
    assert lease.age(now) == 18.5 * HOUR
    assert lease.grant(climb(nonce(20), ()), (), now)
    assert lease.age(now) == 3.5 * HOUR
    # What is older than the lease in hand is answered no more.
    assert not lease.grant(climb(nonce(4), ()), (), now)


def test_a_nonce_of_the_day_before_is_forgotten() -> None:
    lease = Lease(AIR_GAPPED)
    lease.ask(nonce(1), Instant(0.0))
    lease.ask(nonce(2), Instant(24 * HOUR + 1))
    assert not lease.grant(climb(nonce(1), ()), (), Instant(24 * HOUR + 2))


def test_neither_a_lost_mirror_nor_a_refused_answer_costs_a_nonce() -> None:
    lease = Lease(AIR_GAPPED)
    lease.ask(nonce(1), Instant(0.0))
    lease.ask_soon()
    assert lease.is_due(Instant(1.0), has_work=False)
    lease.ask(nonce(1), Instant(1.0))
    lease.refuse("metadata is old", Instant(2.0))
    assert not lease.is_due(Instant(3.0), has_work=False)
    assert lease.is_due(Instant(5.0), has_work=False)
    assert lease.grant(climb(nonce(1), ()), (), Instant(6.0))


def test_a_jump_of_a_clock_costs_all_open_nonces() -> None:
    lease = Lease(AIR_GAPPED)
    lease.ask(nonce(1), Instant(0.0))
    lease.void("clocks")
    assert not lease.grant(climb(nonce(1), ()), (), Instant(6.0))


def test_an_endpoint_whose_mirror_is_online_asks_no_more_than_each_ten_minutes() -> None:
    lease, drawn = Lease(AIR_GAPPED), 0
    for second in range(3600):
        now = Instant(float(second))
        if lease.is_due(now, has_work=False):
            drawn += 1
            lease.ask(nonce(drawn), now)
            assert lease.grant(climb(nonce(drawn), ()), (), now)
    assert drawn == 3600 / CARRIED_FRESH_SPAN


def test_only_who_was_asked_is_heard_where_each_answer_costs_a_day_of_nonces() -> None:
    settings = NodeSettings(peer(1), Role.AGENT, "branch", 7443, lease=AIR_GAPPED)
    leasing = Leasing(settings, OrderSet(), Dice(1))
    leasing.ask(nonce(1), Instant(0.0))
    # Read, it would be refused as no record at all.
    given = LeaseGiven(b"junk", ())
    assert leasing.given(given, peer(9), AUTHORITY, Instant(1.0)) == []
    other = Peer(peer(2), Role.MIRROR, "branch")
    mirror = Session(other, "h", is_upstream=True, sync=OrderSync(other, bytes(32)))
    mirror.sync.has_delivered = mirror.sync.has_received = True
    assert leasing.wake([mirror], Instant(1.0), has_work=False, signs=False)
    assert leasing.given(given, peer(9), AUTHORITY, Instant(1.0)) == []
    with pytest.raises(Malformed):
        leasing.given(given, peer(2), AUTHORITY, Instant(1.0))

"""Leases by stick: what a mirror keeps, what it believes, and how long a nonce is good."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from firedoor.cli.stick_folder import Stick
from firedoor.errors import Malformed, Unavailable, Untrusted
from firedoor.halt.carried import CarriedLeases, root_of_questions
from firedoor.halt.lease import AIR_GAPPED, CARRIED_AGAIN_SPAN, CARRIED_FRESH_SPAN, Lease
from firedoor.halt.merkle import climb
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import PATH_STEPS_MAX
from firedoor.runtime.carried_files import CarriedFiles
from firedoor.runtime.certificates import id_of_request, make_request
from firedoor.units import Instant
from firedoor.wire.messages import LeaseGiven
from firedoor.wire.stick import CARRIED_MAX, Answer, Inbound, MetadataFiles, Outbound, Question
from mirror.carrying import Postbox

FLEET = FleetId("0a" * 16)
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


# --- certificates ---------------------------------------------------------------------------------


def test_a_renewal_waits_for_the_stick_and_is_handed_out_until_the_next_comes() -> None:
    box, request = Postbox(b"ca"), make_request(b"\1" * 32)
    asker = Peer(id_of_request(request), Role.AGENT, "branch")
    with pytest.raises(Unavailable, match="next stick"):
        asyncio.run(box.renew(request, asker))
    assert list(box.requests) == [asker.id]
    box.put(asker.id, b"pem")
    assert asyncio.run(box.renew(request, asker)) == b"pem"
    assert not box.requests
    # The answer was lost on its way, or it is due once more: the next stick takes a request, too.
    assert asyncio.run(box.renew(request, asker)) == b"pem"
    assert list(box.requests) == [asker.id]
    box.put(asker.id, b"next")
    assert asyncio.run(box.renew(request, asker)) == b"next"


def test_a_certificate_waits_for_a_machine_that_has_not_asked_since_the_mirror_started() -> None:
    box, request = Postbox(b"ca"), make_request(b"\1" * 32)
    asker = Peer(id_of_request(request), Role.AGENT, "branch")
    assert box.put(asker.id, b"pem")
    assert asyncio.run(box.renew(request, asker)) == b"pem"


def test_a_mirror_keeps_certificates_for_one_site_and_no_more() -> None:
    box = Postbox(b"ca")
    assert all(box.put(peer(number), b"pem") for number in range(CARRIED_MAX))
    assert not box.put(peer(CARRIED_MAX), b"pem")
    assert box.put(peer(0), b"next")


def test_nobody_is_enrolled_where_no_network_leads_to_the_origin() -> None:
    with pytest.raises(Unavailable, match="enrol where one does"):
        asyncio.run(Postbox(b"ca").enrol(b"{}"))


def test_a_stick_s_metadata_is_had_by_name_and_nothing_else() -> None:
    files = CarriedFiles(MetadataFiles({"1.root.json": b"root", "2.releases%2Fmain.json": b"list"}))
    assert asyncio.run(files("/v1/metadata/1.root.json", 10)) == b"root"
    assert asyncio.run(files("/v1/metadata/2.releases/main.json", 10)) == b"list"
    for path, limit in (("/v1/metadata/2.root.json", 10), ("/v1/metadata/1.root.json", 3)):
        with pytest.raises(Unavailable, match="the stick has none"):
            asyncio.run(files(path, limit))


# --- the folder -----------------------------------------------------------------------------------


def test_a_stick_keeps_what_each_site_asks_and_the_last_answer_for_it(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    outbound = Outbound(peer(1), (Question(peer(2), nonce(2)),), (b"request",))
    stick.keep_outbound(outbound)
    inbound = Inbound(Answer(b"record", (), outbound.questions), (b"pem",))
    stick.keep_inbound(peer(1), inbound)
    again = Stick(tmp_path / "stick", FLEET)
    assert again.all_outbound() == [outbound]
    assert again.inbound(peer(1)) == inbound
    assert again.inbound(peer(3)) is None
    # Until the next answer comes: the visit that brought this one may have failed half-way.
    again.keep_outbound(outbound)
    assert again.inbound(peer(1)) == inbound


def test_a_stick_of_another_fleet_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    Stick(tmp_path / "stick", FLEET)
    with pytest.raises(Malformed, match="wanted fleet 0b0b"):
        Stick(tmp_path / "stick", FleetId("0b" * 16))
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo").touch()
    with pytest.raises(Malformed, match="an empty folder, or a stick"):
        Stick(tmp_path / "holiday", FLEET)


def test_a_damaged_file_on_a_stick_is_named(tmp_path: Path) -> None:
    stick = Stick(tmp_path / "stick", FLEET)
    stick.keep_outbound(Outbound(peer(1), (), ()))
    path = tmp_path / "stick" / "sites" / peer(1) / "outbound"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Malformed, match="outbound"):
        stick.all_outbound()

"""When a lease is granted, how long it is good, and what relays can and cannot do with nonces."""

from dataclasses import replace
from hashlib import sha256

import pytest

from firedoor.errors import FiredoorError, Malformed, Stale, Unavailable, Untrusted
from firedoor.halt.envelope import seal
from firedoor.halt.lease import (
    AIR_GAPPED,
    ASK_AGAIN_SPAN,
    STANDARD,
    TERMS,
    THIN_WAN,
    Known,
    Lease,
    LeasePayload,
    check_lease,
    read_lease,
)
from firedoor.halt.merkle import climb, root_of
from firedoor.halt.nonces import BATCH_SPAN, NonceRelay
from firedoor.identity import FleetId, PeerId
from firedoor.limits import PATH_STEPS_MAX
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.units import Instant, Span

FLEET = FleetId("0a" * 16)
SEED, HALT_SEED = bytes([3]) * 32, bytes([1]) * 32
KEY = key_of(SEED)


def role(seed: bytes) -> RoleKeys:
    key = key_of(seed)
    return RoleKeys(1, {key.keyid: bytes.fromhex(key.keyval["public"])})


AUTHORITY = Authority(
    FLEET,
    5,
    {"beacon": role(SEED), "halt": role(HALT_SEED)},
    is_fresh=True,
    root_version=2,
    snapshot_version=9,
)
IDS = tuple(sorted(sha256(bytes([number])).digest() for number in range(3)))
NONCE = bytes(range(32))
SAID = LeasePayload(1, 2, 5, 9, len(IDS), root_of(IDS), climb(NONCE, ()))
KNOWN = Known(AUTHORITY, IDS, missed=(), lacking=())
ZERO = Span(0.0)


def granted(at: float) -> Lease:
    lease = Lease(STANDARD)
    lease.ask(NONCE, Instant(at))
    assert lease.grant(climb(NONCE, ()), (), Instant(at + 5))
    return lease


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


# --- the lease ----------------------------------------------------------------------------------


def test_a_lease_counts_from_before_its_nonce_was_sent() -> None:
    assert granted(100.0).age(Instant(105.0)) == 5.0


@pytest.mark.parametrize("terms", [STANDARD, THIN_WAN, AIR_GAPPED])
def test_a_lease_is_good_for_its_span_and_no_longer(terms: object) -> None:
    lease = granted(100.0)
    del terms
    assert lease.is_live(STANDARD.start, Instant(130.0))
    assert not lease.is_live(STANDARD.start, Instant(130.1))
    assert lease.is_live(STANDARD.move, Instant(3700.0))
    assert not lease.is_live(STANDARD.move, Instant(3700.1))


def test_a_clock_that_runs_backwards_ends_a_lease() -> None:
    assert not granted(100.0).is_live(STANDARD.start, Instant(99.0))


def test_another_nonce_s_answer_grants_nothing() -> None:
    lease = Lease(STANDARD)
    lease.ask(NONCE, Instant(0.0))
    assert not lease.grant(climb(bytes(32), ()), (), Instant(1.0))
    assert lease.age(Instant(1.0)) is None


def test_an_answer_counts_once() -> None:
    lease = granted(100.0)
    assert not lease.grant(climb(NONCE, ()), (), Instant(200.0))


def test_a_void_lease_is_gone_and_its_open_nonce_with_it() -> None:
    lease = granted(100.0)
    lease.ask(bytes(32), Instant(101.0))
    lease.void("clocks")
    assert lease.age(Instant(102.0)) is None
    assert not lease.grant(climb(bytes(32), ()), (), Instant(103.0))
    assert lease.why == "clocks"


def test_a_node_without_work_asks_for_nothing() -> None:
    lease = Lease(STANDARD)
    assert not lease.is_due(Instant(100.0), has_work=False)
    lease.seek(Instant(100.0))
    assert lease.is_due(Instant(100.0), has_work=False)


def test_a_node_with_work_renews_at_a_third_and_asks_again_when_nobody_answers() -> None:
    lease = granted(100.0)
    assert not lease.is_due(Instant(109.0), has_work=True)
    assert lease.is_due(Instant(110.0), has_work=True)
    lease.ask(bytes(32), Instant(110.0))
    assert not lease.is_due(Instant(112.0), has_work=True)
    assert lease.is_due(Instant(110.0 + ASK_AGAIN_SPAN), has_work=True)


def test_the_terms_are_those_of_the_design() -> None:
    spans = {name: (terms.start, terms.move) for name, terms in TERMS.items()}
    assert spans == {
        "standard": (30.0, 3600.0),
        "thin-wan": (600.0, 3600.0),
        "air-gapped": (86400.0, 86400.0),
    }


# --- what an answer must say --------------------------------------------------------------------


def test_a_node_that_holds_all_and_has_the_newest_metadata_gets_a_lease() -> None:
    check_lease(SAID, KNOWN)


@pytest.mark.parametrize(
    ("said", "known", "error", "words"),
    [
        (replace(SAID, root=3), KNOWN, Stale, "root"),
        (replace(SAID, targets=6), KNOWN, Stale, "targets"),
        (replace(SAID, snapshot=10), KNOWN, Stale, "snapshot"),
        (SAID, replace(KNOWN, listed=None), Unavailable, "lists the origin's orders"),
        (replace(SAID, count=4), KNOWN, Unavailable, "lists the origin's orders"),
        (SAID, replace(KNOWN, lacking=IDS[:1]), Unavailable, "not here"),
        (SAID, replace(KNOWN, missed=IDS[:1]), Untrusted, "1 fewer"),
    ],
)
def test_an_answer_that_proves_too_little_gives_no_lease(
    said: LeasePayload, known: Known, error: type[FiredoorError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_lease(said, known)


def sealed(payload: object = SAID, seed: bytes = SEED, kind: str = "lease") -> bytes:
    return seal(kind, payload, fleet=FLEET, keys={key_of(seed).keyid: seed})[1]


def test_what_the_beacon_key_signed_is_read() -> None:
    assert read_lease(sealed(), AUTHORITY) == SAID


def test_a_halt_key_gives_no_lease() -> None:
    with pytest.raises(Untrusted, match="role beacon"):
        read_lease(sealed(seed=HALT_SEED), AUTHORITY)


def test_a_record_of_another_kind_is_no_lease() -> None:
    with pytest.raises(Malformed, match="kind lease"):
        read_lease(sealed(kind="beacon"), AUTHORITY)


# --- batches ------------------------------------------------------------------------------------


def asked(relay: NonceRelay, count: int, now: float = 0.0) -> dict[PeerId, bytes]:
    nonces = {peer(number): sha256(bytes([number])).digest() for number in range(count)}
    for each, nonce in nonces.items():
        relay.take(each, nonce, Instant(now), patience=ZERO)
    return nonces


def test_what_a_site_asks_within_a_window_goes_up_as_one_nonce() -> None:
    relay = NonceRelay(BATCH_SPAN)
    nonces = asked(relay, 5)
    assert relay.flush(Instant(0.05)) is None
    assert relay.flush(Instant(0.1)) == root_of([nonces[each] for each in sorted(nonces)])
    assert relay.next_wakeup() is None


def test_every_child_gets_a_path_from_its_own_nonce_to_what_was_signed() -> None:
    site, region = NonceRelay(BATCH_SPAN), NonceRelay(BATCH_SPAN)
    nonces = asked(site, 5)
    up = site.flush(Instant(1.0))
    assert up is not None
    region.take(peer(77), up, Instant(1.0), patience=ZERO)
    region.take(peer(78), bytes(32), Instant(1.0), patience=ZERO)
    top = region.flush(Instant(2.0))
    assert top is not None
    signed = climb(top, ())
    [(_, path), _] = region.answered(signed, ())
    for each, steps in site.answered(signed, path):
        assert climb(nonces[each], steps) == signed


def test_an_answer_to_something_else_is_refused_and_the_batch_stays_open() -> None:
    relay = NonceRelay(ZERO)
    asked(relay, 2)
    root = relay.flush(Instant(0.0))
    assert root is not None
    with pytest.raises(Untrusted, match="answer to my nonces"):
        relay.answered(bytes(32), ())
    assert len(relay.answered(climb(root, ()), ())) == 2


def test_an_endless_path_is_refused() -> None:
    relay = NonceRelay(ZERO)
    asked(relay, 1)
    relay.flush(Instant(0.0))
    with pytest.raises(Malformed, match="path of"):
        relay.answered(bytes(32), (b"a",) * (PATH_STEPS_MAX + 1))


def test_batches_are_a_window_apart_so_the_origin_signs_at_most_ten_a_second() -> None:
    relay = NonceRelay(ZERO)
    signed = 0
    for step in range(1000):
        now = step / 1000
        asked(relay, 1, now)
        root = relay.flush(Instant(now))
        if root is not None:
            relay.answered(climb(root, ()), ())
            signed += 1
    assert signed == 10


def test_one_nonce_is_open_for_each_peer_and_a_newer_one_takes_its_place() -> None:
    relay = NonceRelay(ZERO)
    relay.take(peer(1), bytes(32), Instant(0.0), patience=ZERO)
    relay.take(peer(1), NONCE, Instant(0.0), patience=ZERO)
    assert relay.flush(Instant(0.0)) == root_of([NONCE])


def test_a_batch_that_nobody_answers_gives_way_to_the_next() -> None:
    relay = NonceRelay(ZERO)
    asked(relay, 1)
    relay.flush(Instant(0.0))
    relay.take(peer(9), NONCE, Instant(1.0), patience=ZERO)
    assert relay.flush(Instant(1.0)) is None
    assert relay.flush(Instant(float(ASK_AGAIN_SPAN))) == root_of([NONCE])


def test_what_was_asked_of_a_peer_that_is_gone_is_asked_of_the_next() -> None:
    relay = NonceRelay(ZERO)
    nonces = asked(relay, 2)
    root = relay.flush(Instant(0.0))
    relay.ask_again()
    assert relay.flush(Instant(0.2)) == root
    relay.forget(peer(0))
    relay.ask_again()
    assert relay.flush(Instant(0.4)) == root_of([nonces[peer(1)]])


def test_a_renewal_waits_for_those_of_the_site_until_something_urgent_takes_it_along() -> None:
    relay = NonceRelay(BATCH_SPAN)
    relay.take(peer(1), NONCE, Instant(0.0), patience=Span(10.0))
    assert relay.flush(Instant(5.0)) is None
    relay.take(peer(2), bytes(32), Instant(5.0), patience=ZERO)
    assert relay.flush(Instant(5.1)) == root_of([NONCE, bytes(32)])


def test_a_child_that_hangs_up_costs_the_others_of_its_batch_nothing() -> None:
    relay = NonceRelay(ZERO)
    nonces = asked(relay, 3)
    root = relay.flush(Instant(0.0))
    assert root is not None
    relay.forget(peer(1))
    signed = climb(root, ())
    answered = dict(relay.answered(signed, ()))
    assert set(answered) == {peer(0), peer(2)}
    assert all(climb(nonces[each], path) == signed for each, path in answered.items())


def test_thin_lines_have_longer_to_answer() -> None:
    spans = [terms.patience for terms in (STANDARD, THIN_WAN, AIR_GAPPED)]
    assert spans == [3.0, 10.0, 10.0]


def test_a_batch_is_urgent_if_any_of_its_nonces_is() -> None:
    relay = NonceRelay(ZERO)
    relay.take(peer(1), NONCE, Instant(0.0), patience=ZERO, is_urgent=False)
    relay.flush(Instant(0.0))
    assert not relay.is_urgent
    relay.answered(climb(root_of([NONCE]), ()), ())
    relay.take(peer(1), NONCE, Instant(1.0), patience=ZERO, is_urgent=False)
    relay.take(peer(2), bytes(32), Instant(1.0), patience=ZERO, is_urgent=True)
    relay.flush(Instant(1.0))
    assert relay.is_urgent

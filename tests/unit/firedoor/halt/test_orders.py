"""What a signed order proves, and what the order set takes in and puts in force."""

from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
from nacl.signing import SigningKey

from firedoor.errors import Malformed, TooLarge, Untrusted
from firedoor.halt.brake import Brake, Gate
from firedoor.halt.envelope import Envelope, Signature, seal
from firedoor.halt.order import (
    LEVEL_IN_DOUBT,
    LEVEL_MAX,
    LEVEL_NARROW,
    BeaconPayload,
    Halt,
    HaltPayload,
    Resume,
    ResumePayload,
    check_halt,
    read_beacon,
    read_order,
)
from firedoor.halt.orderset import Admission, OrderSet
from firedoor.halt.scope import ScopeKind, Subject, parse_scope
from firedoor.identity import FleetId
from firedoor.limits import (
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    REASON_BYTES_MAX,
    RESUMED_IDS_MAX,
    SIGNATURES_MAX,
    UNRECORDED_PER_KEY_MAX,
)
from firedoor.trust.keys import Authority, RoleKeys
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode, pack

FLEET = FleetId("0a" * 16)
OTHER_FLEET = FleetId("0b" * 16)

HALT, HALT_2, RESUME, RESUME_2, RESUME_3, BEACON, STRANGER = (
    sha256(name.encode()).digest()
    for name in ("halt", "halt 2", "resume", "resume 2", "resume 3", "beacon", "stranger")
)

APP_1 = Subject("app", "1", sha256(b"app 1").digest())


def keyid_of(seed: bytes) -> str:
    return sha256(seed + b"id").hexdigest()


def role(threshold: int, *seeds: bytes) -> RoleKeys:
    public = {keyid_of(seed): SigningKey(seed).verify_key.encode() for seed in seeds}
    return RoleKeys(threshold=threshold, keys=public)


AUTHORITY = Authority(
    fleet=FLEET,
    targets_version=1,
    roles={
        "halt": role(1, HALT, HALT_2),
        "resume": role(2, RESUME, RESUME_2, RESUME_3),
        "beacon": role(1, BEACON),
    },
    is_fresh=True,
)


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


def halt_payload(number: int = 0, scope: str = "app==1", level: int = 4) -> HaltPayload:
    return HaltPayload(1, nonce(number), scope, level, 1_700_000_000, "it crashes")


def sealed(
    kind: str, payload: object, *seeds: bytes, fleet: FleetId = FLEET
) -> tuple[bytes, bytes]:
    """The id and the record of `payload`, signed by each of `seeds`."""
    return seal(kind, payload, fleet=fleet, keys={keyid_of(seed): seed for seed in seeds})


def sealed_bytes(kind: str, body: bytes, *seeds: bytes) -> bytes:
    """The record of a payload of any bytes, rightly signed."""
    message = signed_bytes(FLEET, kind, body)
    signatures = tuple(Signature(keyid_of(seed), sign(seed, message)) for seed in seeds)
    return encode(Envelope(kind, body, signatures))


def a_halt(number: int = 0, scope: str = "app==1", level: int = 4) -> tuple[bytes, bytes]:
    return sealed("halt", halt_payload(number, scope, level), HALT)


def a_resume(*halts: bytes, number: int = 0) -> tuple[bytes, bytes]:
    payload = ResumePayload(1, nonce(number), halts, 1_700_000_001, "fixed")
    return sealed("resume", payload, RESUME, RESUME_2)


def a_beacon(*ids: bytes) -> bytes:
    return sealed("beacon", BeaconPayload(1, ids), BEACON)[1]


def envelope_of(record: bytes) -> Envelope:
    return decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)


def admitted(*records: bytes) -> OrderSet:
    orders = OrderSet()
    for record in records:
        orders.admit(record, AUTHORITY)
    return orders


# Reading a halt.


def in_force(orders: OrderSet, *, may_resume: bool) -> list[Halt]:
    """The halts in force once resumes have begun to act, if they may."""
    if may_resume:
        orders.let_resumes_act()
    return orders.in_force()


def test_a_halt_says_what_was_signed() -> None:
    payload = replace(halt_payload(), contents=(APP_1.content,))
    order_id, record = sealed("halt", payload, HALT)
    assert read_order(record, AUTHORITY) == Halt(
        id=order_id,
        kind="halt",
        record=record,
        keyids=frozenset({keyid_of(HALT)}),
        signers=frozenset({keyid_of(HALT)}),
        scope=parse_scope("app==1"),
        level=4,
        reason="it crashes",
        issued_at=1_700_000_000,
        contents=frozenset({APP_1.content}),
        is_doubtful=False,
    )


def test_the_id_is_the_digest_of_the_signed_bytes() -> None:
    order_id, record = a_halt()
    payload = envelope_of(record).payload
    assert order_id == sha256(signed_bytes(FLEET, "halt", payload)).digest()


def test_more_signatures_make_no_new_order() -> None:
    one = sealed("halt", halt_payload(), HALT)
    both = sealed("halt", halt_payload(), HALT, HALT_2)
    assert one[0] == both[0]
    assert one[1] != both[1]
    assert read_order(both[1], AUTHORITY).signers == {keyid_of(HALT), keyid_of(HALT_2)}


def test_a_halt_is_read_under_an_authority_that_is_not_fresh() -> None:
    order = read_order(a_halt()[1], replace(AUTHORITY, is_fresh=False))
    assert isinstance(order, Halt)


def test_a_record_cut_at_any_byte_is_refused() -> None:
    for record in (a_halt()[1], a_resume(bytes(32))[1]):
        for size in range(len(record)):
            with pytest.raises(Malformed):
                read_order(record[:size], AUTHORITY)


def test_a_record_with_a_tail_is_refused() -> None:
    with pytest.raises(Malformed):
        read_order(a_halt()[1] + b"\x00", AUTHORITY)


def test_a_record_above_the_limit_is_refused_though_rightly_signed() -> None:
    record = sealed_bytes("halt", bytes(ORDER_BYTES_MAX), HALT)
    with pytest.raises(TooLarge) as refusal:
        read_order(record, AUTHORITY)
    assert refusal.value.limit == ORDER_BYTES_MAX


def test_the_longest_halt_fits_the_limit() -> None:
    payload = HaltPayload(
        1,
        nonce(1),
        "p" * 64 + "==" + "v" * 64,
        6,
        2**40,
        "r" * REASON_BYTES_MAX,
        (APP_1.content,) * 4,
    )
    order = read_order(sealed("halt", payload, HALT)[1], AUTHORITY)
    assert isinstance(order, Halt)
    assert not order.is_doubtful


@pytest.mark.parametrize(
    "payload",
    [
        replace(halt_payload(), reason="r" * (REASON_BYTES_MAX + 1)),
        replace(halt_payload(), level=LEVEL_MAX + 1),
        replace(halt_payload(), nonce=bytes(15)),
        replace(halt_payload(), contents=(bytes(32),) * 5),
    ],
    ids=["reason", "level", "nonce", "contents"],
)
def test_a_halt_that_readers_would_doubt_is_not_signed(payload: HaltPayload) -> None:
    with pytest.raises(Malformed):
        sealed("halt", payload, HALT)


def test_an_order_that_readers_would_find_too_large_is_not_signed() -> None:
    seeds = {f"{number:064x}": nonce(number) * 2 for number in range(24)}
    with pytest.raises(TooLarge):
        seal("resume", longest_resume(), fleet=FLEET, keys=seeds)


def test_the_longest_resume_fits_the_limit_with_all_its_signatures() -> None:
    seeds = {f"{number:064x}": nonce(number) * 2 for number in range(SIGNATURES_MAX)}
    _, record = seal("resume", longest_resume(), fleet=FLEET, keys=seeds)
    assert len(record) <= ORDER_BYTES_MAX


def longest_resume() -> ResumePayload:
    ids = tuple(nonce(number) * 2 for number in range(RESUMED_IDS_MAX))
    return ResumePayload(1, nonce(0), ids, 2**40, "\U0001f525" * REASON_BYTES_MAX)


# Forgery.


def test_an_order_signed_by_a_stranger_is_refused() -> None:
    with pytest.raises(Untrusted, match="got 0"):
        read_order(sealed("halt", halt_payload(), STRANGER)[1], AUTHORITY)


def test_a_signature_under_the_id_of_a_key_that_did_not_make_it_is_refused() -> None:
    _, record = seal("halt", halt_payload(), fleet=FLEET, keys={keyid_of(HALT): STRANGER})
    with pytest.raises(Untrusted):
        read_order(record, AUTHORITY)


def test_an_order_without_a_signature_is_refused() -> None:
    with pytest.raises(Untrusted):
        read_order(sealed("halt", halt_payload())[1], AUTHORITY)


def test_a_payload_changed_after_it_was_signed_is_refused() -> None:
    envelope = envelope_of(a_halt()[1])
    forged = replace(envelope, payload=encode(halt_payload(scope="everything")))
    with pytest.raises(Untrusted):
        read_order(encode(forged), AUTHORITY)


def test_an_order_of_another_fleet_is_refused() -> None:
    foreign = sealed("halt", halt_payload(), HALT, fleet=OTHER_FLEET)
    assert foreign[0] != a_halt()[0]
    with pytest.raises(Untrusted):
        read_order(foreign[1], AUTHORITY)


@pytest.mark.parametrize(("signed_as", "offered_as"), [("halt", "resume"), ("resume", "halt")])
def test_an_order_offered_as_another_kind_is_refused(signed_as: str, offered_as: str) -> None:
    everyone = replace(
        AUTHORITY, roles={"halt": role(1, HALT), "resume": role(1, HALT), "beacon": role(1, HALT)}
    )
    record = sealed(signed_as, halt_payload(), HALT)[1]
    with pytest.raises(Untrusted):
        read_order(encode(replace(envelope_of(record), kind=offered_as)), everyone)


@pytest.mark.parametrize("kind", ["beacon", "promote", "", "Halt", "halt\n", "targets"])
def test_a_record_of_another_kind_is_no_order(kind: str) -> None:
    with pytest.raises(Malformed, match="wanted kind halt, drill, controller-halt, resume"):
        read_order(sealed(kind, halt_payload(), HALT, BEACON)[1], AUTHORITY)


@pytest.mark.parametrize("kind", ["halt", "resume"])
def test_an_authority_without_the_role_takes_no_order_of_it(kind: str) -> None:
    bare = replace(AUTHORITY, roles={})
    with pytest.raises(Untrusted):
        read_order(sealed(kind, halt_payload(), HALT, RESUME, RESUME_2)[1], bare)


def test_more_signatures_than_the_limit_are_refused() -> None:
    envelope = envelope_of(a_halt()[1])
    short = Signature("k", bytes(64))
    most = (*envelope.signatures, *(short,) * (SIGNATURES_MAX - 1))
    read_order(encode(replace(envelope, signatures=most)), AUTHORITY)
    with pytest.raises(Malformed):
        read_order(encode(replace(envelope, signatures=(*most, short))), AUTHORITY)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_size_is_refused(size: int) -> None:
    record = encode(replace(envelope_of(a_halt()[1]), signatures=()))
    body = {**asdict(envelope_of(record)), "signatures": [{"keyid": "k", "value": bytes(size)}]}
    with pytest.raises(Malformed):
        read_order(pack(body), AUTHORITY)


# Doubt under a valid signature, and junk without one.

GOOD = asdict(halt_payload())

NOT_UNDERSTOOD: dict[str, bytes] = {
    "a version to come": pack({**GOOD, "version": 2}),
    "version 0": pack({**GOOD, "version": 0}),
    "an unknown scope": pack({**GOOD, "scope": "planet:mars"}),
    "a range from 0 on": pack({**GOOD, "scope": "app#0..3"}),
    "a range that ends before it begins": pack({**GOOD, "scope": "app#3..2"}),
    "an empty scope": pack({**GOOD, "scope": ""}),
    "a scope too long": pack({**GOOD, "scope": "s" * 161}),
    "an unknown field": pack({**GOOD, "sites": ["hq"]}),
    "a missing field": pack({name: GOOD[name] for name in GOOD if name != "level"}),
    "level 8": pack({**GOOD, "level": 8}),
    "level 0": pack({**GOOD, "level": 0}),
    "a level that is text": pack({**GOOD, "level": "4"}),
    "a short nonce": pack({**GOOD, "nonce": bytes(15)}),
    "a long nonce": pack({**GOOD, "nonce": bytes(17)}),
    "a long reason": pack({**GOOD, "reason": "r" * (REASON_BYTES_MAX + 1)}),
    "an issue date before 1970": pack({**GOOD, "issued_at": -1}),
    "a content that is no digest": pack({**GOOD, "contents": [bytes(31)]}),
    "too many contents": pack({**GOOD, "contents": [bytes(32)] * 5}),
    "a product at level 5": pack({**GOOD, "scope": "app", "level": 5}),
    "everything at level 6": pack({**GOOD, "scope": "everything", "level": 6}),
    "no map": pack([1, 2]),
    "no msgpack": b"\xc1\xc1",
    "nothing": b"",
    "a tail": pack(GOOD) + b"\x00",
    "a field twice": b"\x82" + (pack("version") + b"\x01") * 2,
    "a deep nest": b"\x91" * 1000 + b"\xc0",
    "a deep nest in a field": b"\x81" + pack("version") + b"\x91" * 990 + b"\xc0",
}


@pytest.mark.parametrize("body", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_doubt_under_a_valid_signature_halts_everything_at_level_4(body: bytes) -> None:
    order = read_order(sealed_bytes("halt", body, HALT), AUTHORITY)
    assert isinstance(order, Halt)
    assert order.is_doubtful
    assert order.scope.kind is ScopeKind.EVERYTHING
    assert order.level == LEVEL_IN_DOUBT == 4
    assert order.reason.startswith("not understood")


@pytest.mark.parametrize("body", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
@pytest.mark.parametrize("seeds", [(), (STRANGER,), (RESUME,)], ids=["no", "other", "res"])
def test_the_same_bytes_without_a_halt_signature_count_as_nothing(
    body: bytes, seeds: tuple[bytes, ...]
) -> None:
    orders = OrderSet()
    with pytest.raises(Untrusted):
        orders.admit(sealed_bytes("halt", body, *seeds), AUTHORITY)
    assert orders.ids() == ()


def test_a_doubtful_halt_is_lifted_by_its_id() -> None:
    doubtful = sealed_bytes("halt", NOT_UNDERSTOOD["a version to come"], HALT)
    orders = admitted(doubtful)
    resume_id, resume = a_resume(*orders.ids())
    orders.admit(resume, AUTHORITY)
    orders.name(a_beacon(resume_id), AUTHORITY)
    assert in_force(orders, may_resume=True) == []


def test_a_doubtful_halt_shuts_the_gates_of_every_release() -> None:
    orders = admitted(sealed_bytes("halt", b"", HALT))
    brake = Brake()
    brake.set_halts(in_force(orders, may_resume=True))
    assert not brake.permits(Gate.ACTIVATE, APP_1)
    assert brake.permits(Gate.KEEP, APP_1)


# The narrow levels.


@pytest.mark.parametrize("level", range(1, LEVEL_MAX + 1))
@pytest.mark.parametrize("scope", ["app", "everything", "app==1", "digest:" + "ab" * 32])
def test_level_5_and_above_wants_a_scope_that_names_bytes(scope: str, level: int) -> None:
    names_bytes = scope not in {"app", "everything"}
    if level < LEVEL_NARROW or names_bytes:
        check_halt(parse_scope(scope), level)
    else:
        with pytest.raises(Malformed, match="a release, version range or digest"):
            check_halt(parse_scope(scope), level)
    order = read_order(a_halt(scope=scope, level=level)[1], AUTHORITY)
    assert isinstance(order, Halt)
    assert order.is_doubtful == (level >= LEVEL_NARROW and not names_bytes)
    assert order.level == (LEVEL_IN_DOUBT if order.is_doubtful else level)


def test_the_same_bytes_under_another_version_stay_halted_end_to_end() -> None:
    orders = admitted(a_halt()[1])
    brake = Brake()
    brake.set_halts(in_force(orders, may_resume=True))
    brake.learn(APP_1)
    assert not brake.permits(Gate.ACTIVATE, replace(APP_1, version="2"))
    assert brake.permits(Gate.SERVE, Subject("app", "2", bytes(32)))


# Resumes.


def test_a_resume_says_what_was_signed() -> None:
    halt_id, _ = a_halt()
    resume_id, record = a_resume(halt_id)
    assert read_order(record, AUTHORITY) == Resume(
        id=resume_id,
        kind="resume",
        record=record,
        keyids=frozenset({keyid_of(RESUME), keyid_of(RESUME_2)}),
        signers=frozenset({keyid_of(RESUME), keyid_of(RESUME_2)}),
        halts=frozenset({halt_id}),
        reason="fixed",
        issued_at=1_700_000_001,
    )


@pytest.mark.parametrize(
    "seeds",
    [(HALT,), (HALT, HALT_2), (HALT, RESUME), (RESUME,), (RESUME, STRANGER), (RESUME, BEACON)],
    ids=["halt", "halts", "halt-resume", "one", "stranger", "beacon"],
)
def test_a_resume_without_enough_resume_keys_is_refused(seeds: tuple[bytes, ...]) -> None:
    halt_id, halt = a_halt()
    orders = admitted(halt)
    payload = ResumePayload(1, nonce(0), (halt_id,), 0, "")
    with pytest.raises(Untrusted, match=r"2 valid signature\(s\) of role resume"):
        orders.admit(sealed("resume", payload, *seeds)[1], AUTHORITY)
    assert orders.ids() == (halt_id,)


def test_one_key_that_signs_twice_counts_once() -> None:
    payload = encode(ResumePayload(1, nonce(0), (bytes(32),), 0, ""))
    with pytest.raises(Untrusted, match="got 1"):
        read_order(sealed_bytes("resume", payload, RESUME, RESUME), AUTHORITY)


def test_a_stranger_beside_enough_resume_keys_does_no_harm() -> None:
    payload = ResumePayload(1, nonce(0), (bytes(32),), 0, "")
    record = sealed("resume", payload, STRANGER, RESUME, RESUME_3)[1]
    assert read_order(record, AUTHORITY).signers == {keyid_of(RESUME), keyid_of(RESUME_3)}


RESUME_FIELDS = asdict(ResumePayload(1, nonce(0), (bytes(32),), 0, ""))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"nonce": bytes(15)},
        {"halts": []},
        {"halts": [bytes(31)]},
        {"halts": [bytes(32)] * (RESUMED_IDS_MAX + 1)},
        {"issued_at": -1},
        {"reason": "r" * (REASON_BYTES_MAX + 1)},
        {"scope": "everything"},
    ],
    ids=str,
)
def test_a_resume_that_is_not_understood_starts_nothing(changes: dict[str, object]) -> None:
    body = pack({**RESUME_FIELDS, **changes})
    with pytest.raises(Malformed):
        read_order(sealed_bytes("resume", body, RESUME, RESUME_2), AUTHORITY)


def test_a_resume_acts_only_when_a_beacon_names_it_and_the_authority_is_fresh() -> None:
    halt_id, halt = a_halt()
    resume_id, resume = a_resume(halt_id)
    orders = admitted(halt, resume)
    assert [order.id for order in in_force(orders, may_resume=True)] == [halt_id]
    orders.name(a_beacon(halt_id), AUTHORITY)
    assert [order.id for order in in_force(orders, may_resume=True)] == [halt_id]
    orders.name(a_beacon(halt_id, resume_id), AUTHORITY)
    assert [order.id for order in in_force(orders, may_resume=False)] == [halt_id]
    assert in_force(orders, may_resume=True) == []


def test_a_resume_that_comes_before_its_halt_lifts_it_when_it_comes() -> None:
    halt_id, halt = a_halt()
    resume_id, resume = a_resume(halt_id)
    orders = admitted(resume)
    orders.name(a_beacon(resume_id), AUTHORITY)
    orders.admit(halt, AUTHORITY)
    assert in_force(orders, may_resume=True) == []


def test_a_beacon_that_comes_before_its_resume_lets_it_act() -> None:
    halt_id, halt = a_halt()
    resume_id, resume = a_resume(halt_id)
    orders = admitted(halt)
    orders.name(a_beacon(resume_id), AUTHORITY)
    orders.admit(resume, AUTHORITY)
    assert in_force(orders, may_resume=True) == []


def test_a_resume_lifts_only_the_halts_that_it_names() -> None:
    first, second = a_halt(1), a_halt(2)
    resume_id, resume = a_resume(first[0])
    orders = admitted(first[1], second[1], resume)
    orders.name(a_beacon(resume_id), AUTHORITY)
    assert [order.id for order in in_force(orders, may_resume=True)] == [second[0]]


def test_the_same_halt_with_a_new_nonce_outlives_the_resume_of_the_old_one() -> None:
    first = a_halt(1)
    resume_id, resume = a_resume(first[0])
    orders = admitted(first[1], resume)
    orders.name(a_beacon(resume_id), AUTHORITY)
    again = a_halt(2)
    orders.admit(again[1], AUTHORITY)
    assert [order.id for order in in_force(orders, may_resume=True)] == [again[0]]


def test_a_resume_that_acts_goes_on_when_the_metadata_is_past_its_dates() -> None:
    halt_id, halt = a_halt()
    resume_id, resume = a_resume(halt_id)
    orders = admitted(halt, resume)
    orders.name(a_beacon(halt_id, resume_id), AUTHORITY)
    assert orders.let_resumes_act() == (resume_id,)
    assert orders.let_resumes_act() == ()
    assert in_force(orders, may_resume=False) == []


# Beacons.


def test_a_beacon_names_its_ids() -> None:
    assert read_beacon(a_beacon(bytes(32), APP_1.content), AUTHORITY)[0] == {
        bytes(32),
        APP_1.content,
    }


def test_a_beacon_of_the_largest_set_is_taken() -> None:
    ids = tuple(number.to_bytes(32, "big") for number in range(ORDERS_MAX))
    assert len(read_beacon(a_beacon(*ids), AUTHORITY)[0]) == ORDERS_MAX


def test_a_beacon_of_more_ids_than_the_set_holds_is_refused() -> None:
    ids = tuple(number.to_bytes(32, "big") for number in range(ORDERS_MAX + 1))
    body = encode(BeaconPayload(1, ids))
    with pytest.raises(Malformed):
        read_beacon(sealed_bytes("beacon", body, BEACON), AUTHORITY)


def test_an_oversize_beacon_is_refused() -> None:
    with pytest.raises(TooLarge):
        read_beacon(bytes(ORDERS_MAX * 40 + ORDER_BYTES_MAX + 1), AUTHORITY)


@pytest.mark.parametrize("seed", [HALT, RESUME, STRANGER], ids=["halt", "resume", "stranger"])
def test_a_beacon_by_another_key_is_refused(seed: bytes) -> None:
    orders = OrderSet()
    with pytest.raises(Untrusted):
        orders.name(sealed("beacon", BeaconPayload(1, (bytes(32),)), seed)[1], AUTHORITY)
    assert not orders.is_named(bytes(32))


def test_a_beacon_of_another_fleet_is_refused() -> None:
    record = sealed("beacon", BeaconPayload(1, ()), BEACON, fleet=OTHER_FLEET)[1]
    with pytest.raises(Untrusted):
        read_beacon(record, AUTHORITY)


def test_a_beacon_cut_at_any_byte_is_refused() -> None:
    record = a_beacon(bytes(32))
    for size in range(len(record)):
        with pytest.raises(Malformed):
            read_beacon(record[:size], AUTHORITY)
    with pytest.raises(Malformed):
        read_beacon(record + b"\x00", AUTHORITY)


def test_an_order_is_no_beacon() -> None:
    with pytest.raises(Malformed, match="kind beacon"):
        read_beacon(a_halt()[1], AUTHORITY)


@pytest.mark.parametrize(
    "body",
    [pack({"version": 2, "ids": []}), pack({"version": 1, "ids": [bytes(31)]}), b""],
    ids=["version", "digest", "nothing"],
)
def test_a_beacon_that_is_not_understood_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_beacon(sealed_bytes("beacon", body, BEACON), AUTHORITY)


# The set.


def test_an_order_is_admitted_once() -> None:
    orders = OrderSet()
    order_id, record = a_halt()
    assert orders.admit(record, AUTHORITY)[0] is Admission.NEW
    assert orders.admit(record, AUTHORITY)[0] is Admission.KNOWN
    again = sealed("halt", halt_payload(), HALT, HALT_2)[1]
    assert orders.admit(again, AUTHORITY) == (Admission.SIGNED_ANEW, orders.get(order_id))
    assert orders.admit(record, AUTHORITY)[0] is Admission.KNOWN
    assert orders.admit(again, AUTHORITY)[0] is Admission.KNOWN
    assert orders.ids() == (order_id,)


def test_a_halt_signed_anew_is_believed_where_its_first_key_is_gone() -> None:
    order_id, record = a_halt()
    again = sealed("halt", halt_payload(), HALT_2)[1]
    orders = admitted(record, again)
    turned = replace(AUTHORITY, roles={**AUTHORITY.roles, "halt": role(1, HALT_2)})
    elsewhere = OrderSet()
    for each in orders.records_but(()):
        elsewhere.admit(each, turned)
    assert elsewhere.ids() == (order_id,)
    assert orders.digest() == elsewhere.digest()


def test_an_order_signed_anew_counts_for_its_new_key() -> None:
    orders = admitted(*(a_halt(number)[1] for number in range(UNRECORDED_PER_KEY_MAX)))
    turned = replace(AUTHORITY, roles={**AUTHORITY.roles, "halt": role(1, HALT_2)})
    orders.judge(turned)
    assert orders.offered() == ()
    assert len(orders.in_force()) == UNRECORDED_PER_KEY_MAX
    for number in range(UNRECORDED_PER_KEY_MAX):
        record = sealed("halt", halt_payload(number), HALT_2)[1]
        assert orders.admit(record, turned)[0] is Admission.SIGNED_ANEW
    assert len(orders.offered()) == UNRECORDED_PER_KEY_MAX
    with pytest.raises(TooLarge, match="not committed"):
        orders.admit(sealed("halt", halt_payload(99), HALT_2)[1], turned)


def test_what_was_recorded_is_restored_though_its_key_is_gone() -> None:
    halt_id, halt = a_halt()
    turned = replace(AUTHORITY, roles={**AUTHORITY.roles, "halt": role(1, HALT_2)})
    orders = OrderSet()
    assert orders.restore(halt, turned).id == halt_id
    assert [order.id for order in orders.in_force()] == [halt_id]


def test_an_order_signed_anew_is_offered_after_a_restart() -> None:
    order_id, record = a_halt()
    again = sealed("halt", halt_payload(), HALT_2)[1]
    turned = replace(AUTHORITY, roles={**AUTHORITY.roles, "halt": role(1, HALT_2)})
    for frames in ((record, again), (again, record)):
        orders = OrderSet()
        for frame in frames:
            orders.restore(frame, turned)
        assert orders.offered() == (order_id,)


def test_more_orders_than_one_key_may_leave_unlogged_are_restored() -> None:
    records = [a_halt(number)[1] for number in range(UNRECORDED_PER_KEY_MAX + 1)]
    orders = OrderSet()
    for record in records:
        orders.restore(record, AUTHORITY)
    assert len(orders.ids()) == len(records)


def test_one_key_leaves_the_others_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firedoor.halt.orderset.ORDERS_PER_KEY_MAX", 2)
    orders = admitted(a_halt(1)[1], a_halt(2)[1])
    with pytest.raises(TooLarge, match="one key"):
        orders.admit(a_halt(3)[1], AUTHORITY)
    other = sealed("halt", halt_payload(4), HALT_2)[1]
    assert orders.admit(other, AUTHORITY)[0] is Admission.NEW


def test_beacons_name_no_more_than_a_set_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firedoor.halt.orderset.ORDERS_MAX", 2)
    orders = OrderSet()
    orders.name(a_beacon(nonce(1) * 2, nonce(2) * 2), AUTHORITY)
    with pytest.raises(TooLarge, match="named"):
        orders.name(a_beacon(nonce(3) * 2), AUTHORITY)
    assert not orders.is_named(nonce(3) * 2)


def test_an_order_stays_when_its_key_is_gone() -> None:
    halt_id, halt = a_halt()
    orders = admitted(halt)
    without = replace(AUTHORITY, roles={**AUTHORITY.roles, "halt": role(1, HALT_2)})
    with pytest.raises(Untrusted):
        orders.admit(halt, without)
    assert [order.id for order in in_force(orders, may_resume=True)] == [halt_id]


def test_the_set_gives_the_records_that_another_lacks() -> None:
    halts = [a_halt(number) for number in range(4)]
    orders = admitted(*(record for _, record in halts))
    known = [halts[0][0], halts[2][0], bytes(32)]
    assert orders.records_but(known) == tuple(
        record for order_id, record in sorted(halts) if order_id not in known
    )
    assert orders.get(bytes(32)) is None


def test_equal_sets_have_equal_digests_whatever_is_named() -> None:
    halt_id, halt = a_halt()
    one, other = admitted(halt), admitted(halt)
    other.name(a_beacon(halt_id), AUTHORITY)
    assert one.digest() == other.digest() == sha256(halt_id).digest()
    assert OrderSet().digest() == sha256(b"").digest()


def test_a_beacon_tells_only_what_is_newly_named() -> None:
    first, second = bytes(32), APP_1.content
    orders = OrderSet()
    assert orders.name(a_beacon(first), AUTHORITY).fresh == {first}
    assert orders.name(a_beacon(first, second), AUTHORITY).fresh == {second}
    assert orders.name(a_beacon(), AUTHORITY).fresh == frozenset()
    assert orders.is_named(first)
    assert orders.is_named(second)


def full_share() -> tuple[OrderSet, list[tuple[bytes, bytes]]]:
    """A set that holds as many unrecorded orders of the halt key as it may, and those orders."""
    halts = [a_halt(number) for number in range(UNRECORDED_PER_KEY_MAX)]
    return admitted(*(record for _, record in halts)), halts


def test_a_key_has_at_most_64_orders_that_no_beacon_names() -> None:
    orders, _ = full_share()
    assert len(orders.ids()) == UNRECORDED_PER_KEY_MAX == 64
    with pytest.raises(TooLarge) as refusal:
        orders.admit(a_halt(64)[1], AUTHORITY)
    assert refusal.value.size == 65
    assert len(orders.ids()) == UNRECORDED_PER_KEY_MAX


def test_a_full_share_of_one_key_leaves_the_other_keys_theirs() -> None:
    orders, _ = full_share()
    orders.admit(sealed("halt", halt_payload(64), HALT_2)[1], AUTHORITY)


def test_a_full_share_still_knows_what_it_holds() -> None:
    orders, halts = full_share()
    assert orders.admit(halts[0][1], AUTHORITY)[0] is Admission.KNOWN


def test_a_named_order_leaves_its_share_once() -> None:
    orders, halts = full_share()
    orders.name(a_beacon(halts[0][0]), AUTHORITY)
    orders.name(a_beacon(halts[0][0]), AUTHORITY)
    orders.admit(a_halt(64)[1], AUTHORITY)
    with pytest.raises(TooLarge):
        orders.admit(a_halt(65)[1], AUTHORITY)


def test_an_order_that_a_beacon_names_needs_no_share() -> None:
    orders, halts = full_share()
    extra_id, extra = a_halt(64)
    orders.name(a_beacon(extra_id), AUTHORITY)
    assert orders.admit(extra, AUTHORITY)[0] is Admission.NEW
    orders.name(a_beacon(halts[0][0]), AUTHORITY)
    assert orders.admit(a_halt(65)[1], AUTHORITY)[0] is Admission.NEW


def test_a_refused_order_takes_no_share() -> None:
    orders = OrderSet()
    for _ in range(UNRECORDED_PER_KEY_MAX + 1):
        with pytest.raises(Untrusted):
            orders.admit(sealed("halt", halt_payload(), STRANGER)[1], AUTHORITY)
    orders.admit(a_halt()[1], AUTHORITY)


def test_a_full_set_refuses_even_a_named_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firedoor.halt.orderset.ORDERS_MAX", 2)
    orders = admitted(a_halt(0)[1], a_halt(1)[1])
    extra_id, extra = a_halt(2)
    orders.name(a_beacon(extra_id), AUTHORITY)
    with pytest.raises(TooLarge, match="order set"):
        orders.admit(extra, AUTHORITY)
    assert orders.admit(a_halt(0)[1], AUTHORITY)[0] is Admission.KNOWN


@pytest.mark.parametrize("read", [read_order, read_beacon])
def test_empty_bytes_are_refused(read: Callable[[bytes, Authority], object]) -> None:
    with pytest.raises(Malformed):
        read(b"", AUTHORITY)

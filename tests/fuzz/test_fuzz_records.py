"""Bytes that somebody bent: they parse or are refused by name, and a bent order never enters."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from firedoor.errors import Refused
from firedoor.halt.carried import CarriedLeases, root_of_questions
from firedoor.halt.envelope import Envelope, Signature, seal
from firedoor.halt.merkle import climb
from firedoor.halt.order import BeaconPayload, HaltPayload, ResumePayload, read_beacon, read_order
from firedoor.halt.orderset import OrderSet
from firedoor.identity import FleetId
from firedoor.limits import FRAME_BYTES_MAX, ORDER_BYTES_MAX
from firedoor.trust.keys import Authority, RoleKeys
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import (
    Announce,
    Bitfield,
    CaughtUp,
    Have,
    Health,
    Hello,
    Interest,
    Obeyed,
    OrderIds,
    OrderRefused,
    Orders,
    OrdersDone,
    ProductHealth,
    Report,
    Roster,
    RosterEntry,
    decode_message,
    encode_message,
)
from firedoor.wire.stick import STICK_BYTES_MAX, Answer, Inbound, Question

FLEET = FleetId("0a" * 16)
SEEDS = {kind: sha256(kind.encode()).digest() for kind in ("halt", "resume", "beacon")}
KEYIDS = {kind: sha256(seed).hexdigest() for kind, seed in SEEDS.items()}
AUTHORITY = Authority(
    fleet=FLEET,
    targets_version=1,
    roles={
        kind: RoleKeys(threshold=1, keys={KEYIDS[kind]: SigningKey(seed).verify_key.encode()})
        for kind, seed in SEEDS.items()
    },
    is_fresh=True,
)


def sealed(kind: str, payload: object) -> tuple[bytes, bytes]:
    return seal(kind, payload, fleet=FLEET, keys={KEYIDS[kind]: SEEDS[kind]})


HALT_ID, HALT = sealed("halt", HaltPayload(1, bytes(16), "app==1", 4, 7, "it crashes"))
RESUME_ID, RESUME = sealed("resume", ResumePayload(1, bytes(16), (HALT_ID,), 8, "fixed"))
BEACON = sealed("beacon", BeaconPayload(1, (HALT_ID, RESUME_ID)))[1]

M = "ab" * 32
PEER = "0f" * 16
FRAMES = [
    encode_message(message)
    for message in (
        Hello(HALT_ID, 7443),
        OrderIds((HALT_ID, RESUME_ID)),
        Orders((HALT, RESUME)),
        OrdersDone(),
        CaughtUp(),
        Obeyed((HALT_ID,)),
        OrderRefused("too few signatures"),
        Announce(1, 2),
        Interest((M,)),
        Bitfield(M, b"\xf0"),
        Have(M, (0, 2**40)),
        Roster((RosterEntry(PEER, "127.0.0.1", 7443),)),
        Health((Report(PEER, "agent", "hq", (ProductHealth("a", "1", M, "active"),), ()),)),
    )
]


def bent_once(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    end = draw(st.integers(at, min(len(data), at + 8)))
    match draw(st.sampled_from(["flip", "cut", "drop", "put", "repeat"])):
        case "flip" if at < len(data):
            return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[end:]
        case "repeat":
            return data[:end] + data[at:]
        case _:
            return data[:at] + draw(st.binary(max_size=9)) + data[end:]


@st.composite
def bent(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of `whole` after one to four small accidents."""
    data = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(1, 4))):
        data = bent_once(draw, data)
    return data


def parsed_or_refused(read: Callable[[], object]) -> object | None:
    """What `read` gives, or None if it refuses; any other exception fails the test."""
    try:
        return read()
    except Refused:
        return None


def admit_or_refuse(record: bytes) -> tuple[bytes, ...]:
    orders = OrderSet()
    parsed_or_refused(lambda: orders.admit(record, AUTHORITY))
    return orders.ids()


def named_or_refused(record: bytes) -> object | None:
    return parsed_or_refused(lambda: read_beacon(record, AUTHORITY)[0])


@settings(deadline=None)
@given(bent([HALT, RESUME]))
def test_a_mutated_order_never_admits(record: bytes) -> None:
    # A change outside the signed bytes may leave the order as it was; then it is that very order.
    ids = admit_or_refuse(record)
    assert ids in {(), (HALT_ID,), (RESUME_ID,)}
    if ids:
        envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
        whole = HALT if ids == (HALT_ID,) else RESUME
        original = decode(Envelope, whole, what="order", limit=ORDER_BYTES_MAX)
        assert (envelope.kind, envelope.payload) == (original.kind, original.payload)


@pytest.mark.parametrize("record", [HALT, RESUME], ids=["halt", "resume"])
def test_no_flip_of_any_one_bit_admits(record: bytes) -> None:
    for at in range(len(record)):
        for bit in range(8):
            flipped = record[:at] + bytes([record[at] ^ (1 << bit)]) + record[at + 1 :]
            assert admit_or_refuse(flipped) == ()


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 255), st.sampled_from(["halt", "resume"]))
def test_a_changed_payload_under_the_old_signature_never_admits(
    at: int, change: int, kind: str
) -> None:
    record = HALT if kind == "halt" else RESUME
    envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
    place = at % len(envelope.payload)
    payload = bytearray(envelope.payload)
    payload[place] ^= change
    assert admit_or_refuse(encode(replace(envelope, payload=bytes(payload)))) == ()


@settings(deadline=None)
@given(st.binary(max_size=200) | bent([encode(HaltPayload(1, bytes(16), "app", 4, 7, "why"))]))
def test_whatever_a_halt_key_signs_halts_something(payload: bytes) -> None:
    message = signed_bytes(FLEET, "halt", payload)
    signature = Signature(KEYIDS["halt"], sign(SEEDS["halt"], message))
    record = encode(Envelope("halt", payload, (signature,)))
    orders = OrderSet()
    orders.admit(record, AUTHORITY)
    assert [halt.id for halt in orders.in_force()] == [sha256(message).digest()]


@settings(deadline=None)
@given(bent([BEACON]))
def test_a_mutated_beacon_is_refused_or_names_what_was_signed(record: bytes) -> None:
    assert named_or_refused(record) in (None, frozenset({HALT_ID, RESUME_ID}))


def test_no_flip_of_any_one_bit_makes_another_beacon() -> None:
    for at in range(len(BEACON)):
        for bit in range(8):
            flipped = BEACON[:at] + bytes([BEACON[at] ^ (1 << bit)]) + BEACON[at + 1 :]
            assert named_or_refused(flipped) is None


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_neither_order_nor_beacon(data: bytes) -> None:
    assert parsed_or_refused(lambda: read_order(data, AUTHORITY)) is None
    assert named_or_refused(data) is None


@given(bent(FRAMES) | st.binary(max_size=300))
def test_a_mutated_frame_is_a_message_again_or_refused(frame: bytes) -> None:
    message = parsed_or_refused(lambda: decode_message(frame))
    if message is not None:
        again = encode_message(message)
        assert len(again) <= FRAME_BYTES_MAX
        assert decode_message(again) == message


# --- what a stick brings home --------------------------------------------------------------------

QUESTIONS = tuple(
    Question(f"{number:032x}", sha256(bytes([number])).digest()) for number in range(5)
)
SIGNED = climb(root_of_questions(QUESTIONS), ())
INBOUND = encode(Inbound(Answer(b"lease", (), QUESTIONS), (b"pem",)))


@given(bent([INBOUND]) | st.binary(max_size=300))
def test_a_mutated_stick_gives_nobody_another_s_lease(data: bytes) -> None:
    read = parsed_or_refused(lambda: decode(Inbound, data, what="stick", limit=STICK_BYTES_MAX))
    if not isinstance(read, Inbound) or read.answer is None:
        return
    answer = read.answer
    given_out = parsed_or_refused(lambda: CarriedLeases().take(answer, SIGNED))
    for peer, message in given_out.items() if isinstance(given_out, dict) else ():
        # Whatever name stands beside a nonce: a path leads from that nonce, and from no other.
        own = [one.nonce for one in answer.questions if one.peer == peer][-1]
        assert own in {one.nonce for one in QUESTIONS}
        assert climb(own, message.path) == SIGNED

"""Every message of the standing connection: round trips, cut bytes, and ranges."""

from dataclasses import asdict, replace

import pytest

from firedoor.errors import Malformed, Refused, TooLarge
from firedoor.limits import (
    FRAME_BYTES_MAX,
    LIST_ITEMS_MAX,
    ORDER_BYTES_MAX,
    ORDERS_MAX,
    PATH_STEPS_MAX,
    RECEIPT_BYTES_MAX,
    RECEIPTS_MAX,
    ROSTER_MAX,
)
from firedoor.wire.codec import pack
from firedoor.wire.messages import (
    TAGS,
    Announce,
    Beacon,
    Beat,
    Bitfield,
    CaughtUp,
    Countersign,
    Have,
    Health,
    Hello,
    Interest,
    LeaseAsked,
    LeaseGiven,
    Logged,
    Message,
    Obeyed,
    OrderIds,
    OrderRefused,
    Orders,
    OrdersDone,
    ProductHealth,
    Receipts,
    Recorded,
    Report,
    Roster,
    RosterChange,
    RosterEntry,
    Witness,
    decode_message,
    encode_message,
)
from firedoor.wire.versions import Skipped, spoken_by

D = bytes(range(32))
M = "ab" * 32
PEER = "0f" * 16
BEACON_BYTES_MAX = ORDERS_MAX * 40 + ORDER_BYTES_MAX

PRODUCT = ProductHealth(product="app", version="1.2", manifest=M, phase="active", detail="up")
REPORT = Report(id=PEER, role="agent", site="hq", products=(PRODUCT,), orders=(D.hex(),))
ENTRY = RosterEntry(id=PEER, host="127.0.0.1", port=7443)

EXAMPLES: tuple[Message, ...] = (
    Hello(orders=D, port=7443),
    OrderIds(ids=(D, bytes(32))),
    Orders(records=(b"one", b"two")),
    OrdersDone(),
    CaughtUp(),
    Obeyed(ids=(D,)),
    OrderRefused(why="too few signatures"),
    Recorded(ids=(D,)),
    Logged(ids=(D,)),
    Witness(keyid="0f" * 32),
    Countersign(record=b"lease"),
    Beacon(record=b"beacon"),
    LeaseAsked(nonce=D, is_urgent=True),
    LeaseGiven(record=b"lease", path=(b"l" + D, b"a")),
    Receipts(records=(b"receipt",)),
    Beat(),
    Announce(timestamp=7, targets=3),
    Interest(manifests=(M,)),
    Bitfield(manifest=M, bits=b"\xf0"),
    Have(manifest=M, pieces=(0, 5, 2**40)),
    Roster(entries=(ENTRY,)),
    RosterChange(come=(ENTRY,), gone=(PEER,)),
    Health(reports=(REPORT,)),
)

BY_NAME = {type(message).__name__: message for message in EXAMPLES}

Fields = dict[str, object]


def frame_of(name: str, **changes: object) -> bytes:
    """The frame of the example called `name` with some fields changed, unchecked."""
    tag = next(tag for tag, kind in TAGS.items() if kind.__name__ == name)
    return pack([tag, {**asdict(BY_NAME[name]), **changes}])


def names(messages: tuple[Message, ...]) -> list[str]:
    return [type(message).__name__ for message in messages]


def test_every_tag_has_an_example_here() -> None:
    assert {type(message) for message in EXAMPLES} == set(TAGS.values())


@pytest.mark.parametrize("message", EXAMPLES, ids=names(EXAMPLES))
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=names(EXAMPLES))
def test_a_frame_cut_at_any_byte_is_refused(message: Message) -> None:
    frame = encode_message(message)
    for size in range(len(frame)):
        with pytest.raises(Malformed):
            decode_message(frame[:size])


@pytest.mark.parametrize("message", EXAMPLES, ids=names(EXAMPLES))
@pytest.mark.parametrize("tail", [b"\x00", b"\xc1", b"\x92\x04\x80"], ids=["nil", "bad", "frame"])
def test_a_frame_with_a_tail_is_refused(message: Message, tail: bytes) -> None:
    with pytest.raises(Malformed):
        decode_message(encode_message(message) + tail)


@pytest.mark.parametrize("message", EXAMPLES, ids=names(EXAMPLES))
def test_an_unknown_field_is_left_out_and_counted(message: Message) -> None:
    skipped = Skipped()
    frame = frame_of(type(message).__name__, extra={"of": [1, "later", b"version"]})
    assert decode_message(frame, skipped) == message
    assert skipped == Skipped(fields=1)


def test_unknown_fields_of_inner_records_are_left_out_and_counted() -> None:
    skipped = Skipped()
    product = asdict(PRODUCT) | {"runs": "9.0", "since": 4}
    report = asdict(REPORT) | {"products": [product], "more": None}
    assert decode_message(frame_of("Health", reports=[report]), skipped) == Health((REPORT,))
    assert skipped == Skipped(fields=3)


def test_an_unknown_tag_is_left_out_and_counted() -> None:
    skipped = Skipped()
    for tag in (0, -1, 99, 2**63):
        assert decode_message(pack([tag, {"any": "thing"}]), skipped) is None
    assert skipped == Skipped(tags=4)


def test_an_older_peer_is_sent_no_field_that_it_does_not_know() -> None:
    report = replace(REPORT, version="0.2.0")
    for_all = decode_message(encode_message(Health((report,))))
    assert for_all == Health((report,))
    assert b"version" not in encode_message(Health((REPORT,)), 1).replace(b"version\xa31.2", b"")
    assert decode_message(encode_message(Health((report,)), 1)) == Health((REPORT,))


@pytest.mark.parametrize(
    ("header", "speaks"),
    [(None, 1), ("", 1), ("0", 1), ("1", 1), ("2", 2), ("37", 37), ("9999", 9999),
     ("10000", 1), ("-1", 1), ("2 ", 1), ("\u0662", 1), ("2" * 5000, 1)],
)  # fmt: skip
def test_what_a_peer_speaks_is_what_its_header_says(header: str | None, speaks: int) -> None:
    assert spoken_by(header) == speaks


@pytest.mark.parametrize(
    ("name", "field"),
    [(type(message).__name__, field) for message in EXAMPLES for field in asdict(message)],
)
def test_a_missing_field_is_refused(name: str, field: str) -> None:
    tag = next(tag for tag, kind in TAGS.items() if kind.__name__ == name)
    body = asdict(BY_NAME[name])
    del body[field]
    with pytest.raises(Malformed):
        decode_message(pack([tag, body]))


@pytest.mark.parametrize(
    ("name", "field"),
    [(type(message).__name__, field) for message in EXAMPLES for field in asdict(message)],
)
@pytest.mark.parametrize("wrong", [None, True, 1.5, {}, [None]], ids=repr)
def test_a_field_of_another_type_is_refused(name: str, field: str, wrong: object) -> None:
    if type(getattr(BY_NAME[name], field)) is type(wrong):
        pytest.skip("that is its type")
    with pytest.raises(Malformed):
        decode_message(frame_of(name, **{field: wrong}))


def test_text_in_place_of_bytes_is_refused() -> None:
    with pytest.raises(Malformed):
        decode_message(frame_of("Hello", orders="A" * 43 + "="))


def entry(**changes: object) -> list[Fields]:
    return [{**asdict(ENTRY), **changes}]


def product(**changes: object) -> list[Fields]:
    return [{**asdict(REPORT), "products": [{**asdict(PRODUCT), **changes}]}]


def report(**changes: object) -> list[Fields]:
    return [{**asdict(REPORT), **changes}]


OUT_OF_RANGE: list[tuple[str, str, object]] = [
    ("Hello", "orders", bytes(31)),
    ("Hello", "orders", bytes(33)),
    ("Hello", "port", -1),
    ("Hello", "port", 65536),
    ("OrderIds", "ids", [bytes(31)]),
    ("OrderIds", "ids", [bytes(33)]),
    ("OrderIds", "ids", [D] * (ORDERS_MAX + 1)),
    ("Orders", "records", [bytes(ORDER_BYTES_MAX + 1)]),
    ("Orders", "records", [b""] * (ORDERS_MAX + 1)),
    ("Recorded", "ids", [bytes(31)]),
    ("Recorded", "ids", [bytes(33)]),
    ("Recorded", "ids", [D] * (ORDERS_MAX + 1)),
    ("Beacon", "record", bytes(BEACON_BYTES_MAX + 1)),
    ("Announce", "timestamp", -1),
    ("Announce", "timestamp", 2**40 + 1),
    ("Announce", "targets", -1),
    ("Announce", "targets", 2**40 + 1),
    ("Interest", "manifests", [M] * 257),
    ("Interest", "manifests", [M[1:]]),
    ("Interest", "manifests", [M + "a"]),
    ("Interest", "manifests", [M.upper()]),
    ("Interest", "manifests", ["../" + M[3:]]),
    ("Interest", "manifests", [M + "\n"]),
    ("Bitfield", "manifest", M[1:]),
    ("Bitfield", "manifest", M + "\n"),
    ("Bitfield", "bits", bytes(131073)),
    ("Have", "manifest", M + "0"),
    ("Have", "pieces", [-1]),
    ("Have", "pieces", [2**40 + 1]),
    ("Have", "pieces", [0] * (LIST_ITEMS_MAX + 1)),
    ("Roster", "entries", entry() * (ROSTER_MAX + 1)),
    ("Roster", "entries", entry(id=PEER[1:])),
    ("Roster", "entries", entry(id=PEER + "0")),
    ("Roster", "entries", entry(id=PEER.upper())),
    ("Roster", "entries", entry(id=PEER + "\n")),
    ("Roster", "entries", entry(host="h" * 65)),
    ("Roster", "entries", entry(port=0)),
    ("Roster", "entries", entry(port=65536)),
    ("Health", "reports", report() * (ROSTER_MAX + 1)),
    ("Health", "reports", report(id="g" * 32)),
    ("Health", "reports", report(role="r" * 401)),
    ("Health", "reports", report(site="s" * 401)),
    ("LeaseAsked", "nonce", bytes(31)),
    ("LeaseAsked", "is_urgent", 1),
    ("LeaseGiven", "path", [b""]),
    ("LeaseGiven", "path", [bytes(34)]),
    ("LeaseGiven", "path", [b"a"] * (PATH_STEPS_MAX + 1)),
    ("LeaseGiven", "record", bytes(ORDER_BYTES_MAX + 1)),
    ("Receipts", "records", [bytes(RECEIPT_BYTES_MAX + 1)]),
    ("Receipts", "records", [b""] * (RECEIPTS_MAX + 1)),
    ("Health", "reports", report(products=[asdict(PRODUCT)] * 257)),
    ("Health", "reports", report(orders=["o" * 401])),
    ("Health", "reports", report(orders=["o"] * 257)),
    ("Health", "reports", product(product="p" * 401)),
    ("Health", "reports", product(version="v" * 401)),
    ("Health", "reports", product(manifest="m" * 401)),
    ("Health", "reports", product(phase="p" * 401)),
    ("Health", "reports", product(detail="d" * 401)),
]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    OUT_OF_RANGE,
    ids=[f"{name}-{field}-{index}" for index, (name, field, _) in enumerate(OUT_OF_RANGE)],
)
def test_a_field_out_of_its_range_is_refused(name: str, field: str, value: object) -> None:
    with pytest.raises(Refused):
        decode_message(frame_of(name, **{field: value}))


AT_THE_LIMIT: tuple[Message, ...] = (
    Hello(orders=D, port=0),
    Hello(orders=D, port=65535),
    OrderIds(ids=(D,) * ORDERS_MAX),
    Orders(records=(bytes(ORDER_BYTES_MAX),)),
    Orders(records=(b"",) * ORDERS_MAX),
    Recorded(ids=(D,) * ORDERS_MAX),
    Logged(ids=(D,) * ORDERS_MAX),
    Countersign(record=bytes(BEACON_BYTES_MAX)),
    Beacon(record=bytes(BEACON_BYTES_MAX)),
    LeaseGiven(record=bytes(ORDER_BYTES_MAX), path=(bytes(33),) * PATH_STEPS_MAX),
    Receipts(records=(bytes(RECEIPT_BYTES_MAX),) * RECEIPTS_MAX),
    Announce(timestamp=0, targets=2**40),
    Interest(manifests=(M,) * 256),
    Bitfield(manifest=M, bits=bytes(131072)),
    Have(manifest=M, pieces=(2**40,) * LIST_ITEMS_MAX),
    Roster(entries=(RosterEntry(id=PEER, host="h" * 64, port=65535),) * ROSTER_MAX),
    RosterChange(come=(), gone=(PEER,) * ROSTER_MAX),
    Roster(entries=(RosterEntry(id=PEER, host="", port=1),)),
    Health(reports=(REPORT,) * ROSTER_MAX),
    Health(reports=(Report(PEER, "r" * 400, "s" * 400, (PRODUCT,) * 256, ("o",) * 256),)),
)


@pytest.mark.parametrize("message", AT_THE_LIMIT, ids=names(AT_THE_LIMIT))
def test_a_message_at_its_limits_is_taken(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_a_product_without_detail_is_taken() -> None:
    bare = {name: value for name, value in asdict(PRODUCT).items() if name != "detail"}
    message = decode_message(frame_of("Health", reports=report(products=[bare])))
    assert message == Health(
        reports=(
            Report(PEER, "agent", "hq", (ProductHealth("app", "1.2", M, "active"),), (D.hex(),)),
        )
    )


def test_a_frame_above_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge) as refusal:
        decode_message(b"\xc1" * (FRAME_BYTES_MAX + 1))
    assert refusal.value.limit == FRAME_BYTES_MAX
    assert refusal.value.size == FRAME_BYTES_MAX + 1


@pytest.mark.parametrize("tag", [True, 1.0, None, "1", b"\x01", [], {}], ids=repr)
def test_a_tag_that_is_no_number_is_refused(tag: object) -> None:
    with pytest.raises(Malformed, match="a tag"):
        decode_message(pack([tag, asdict(BY_NAME["Hello"])]))


@pytest.mark.parametrize(
    "value",
    [None, 4, "4", b"4", {}, [], [4], [4, {}, {}]],
    ids=repr,
)
def test_a_frame_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="tag, fields"):
        decode_message(pack(value))


@pytest.mark.parametrize("body", [None, 1, [], "x", b"x"], ids=repr)
def test_fields_that_are_no_map_are_refused(body: object) -> None:
    with pytest.raises(Malformed, match="a map"):
        decode_message(pack([4, body]))


def test_a_field_twice_is_refused() -> None:
    announce = b"\x92\x07\x83" + pack("timestamp") + b"\x01" + (pack("targets") + b"\x01") * 2
    with pytest.raises(Malformed, match="a key twice"):
        decode_message(announce)


@pytest.mark.parametrize("depth", [10, 500, 990, 1000, 1020, 5000])
def test_a_deeply_nested_frame_is_refused_as_malformed(depth: int) -> None:
    nested = b"\x91" * depth + b"\xc0"
    for frame in (nested, b"\x92" + nested + b"\x80", b"\x92\x04" + nested):
        with pytest.raises(Malformed):
            decode_message(frame)


@pytest.mark.parametrize(
    "head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_length_that_is_a_lie_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        decode_message(head)
    with pytest.raises(Malformed):
        decode_message(b"\x92\x04" + head)


@pytest.mark.parametrize("thing", [REPORT, PRODUCT, ENTRY, None, "Hello", Hello], ids=str)
def test_encoding_what_is_no_message_is_our_own_mistake(thing: object) -> None:
    with pytest.raises(ValueError, match="wanted one of wire/messages"):
        encode_message(thing)

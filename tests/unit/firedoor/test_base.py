"""The ground that all else stands on: errors, units, names, dice, and the codec."""

from dataclasses import asdict, dataclass

import pytest

from firedoor.dice import Dice
from firedoor.errors import (
    FiredoorError,
    Halted,
    Malformed,
    Refused,
    Stale,
    TooLarge,
    Unavailable,
    Untrusted,
)
from firedoor.identity import Peer, PeerId, Role, checked_name
from firedoor.units import KIB, MIB, Instant, Span, after, between
from firedoor.wire.codec import decode, encode, pack, record, unpack

LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Part:
    number: int


@dataclass(frozen=True, slots=True)
class Whole:
    text: str
    data: bytes
    share: float
    parts: tuple[Part, ...] = ()
    names: tuple[str, ...] = ()
    is_last: bool = False


WHOLE = Whole("a", b"\x00\xff", 0.5, (Part(1), Part(2)), ("x", "y"), is_last=True)


def decoded(data: bytes) -> Whole:
    return decode(Whole, data, what="whole", limit=LIMIT)


def changed(**fields: object) -> bytes:
    return pack({**asdict(WHOLE), **fields})


# --- errors


def test_every_error_says_what_was_wanted_and_what_came() -> None:
    errors = {
        "list: wanted a map, got int": Malformed("list", wanted="a map", got="int"),
        "order: wanted 2 keys, got 1": Untrusted("order", wanted="2 keys", got="1"),
        "snapshot: wanted version 7 or newer, got 6": Stale("snapshot", trusted=7, offered=6),
        "frame: wanted at most 10, got 11": TooLarge("frame", limit=10, size=11),
        "disk: it is full": Unavailable("disk", why="it is full"),
        "app is halted at level 3": Halted("app", level=3),
    }
    assert {str(error) for error in errors.values()} == set(errors)


def test_an_error_carries_its_facts() -> None:
    stale = Stale("snapshot", trusted=7, offered=6)
    assert (stale.role, stale.trusted, stale.offered) == ("snapshot", 7, 6)
    large = TooLarge("frame", limit=10, size=11)
    assert (large.what, large.limit, large.size) == ("frame", 10, 11)
    for kind in (Malformed, Untrusted):
        error = kind("order", wanted="this", got="that")
        assert (error.what, error.wanted, error.got) == ("order", "this", "that")
    away = Unavailable("disk", why="it is full")
    assert (away.what, away.why) == ("disk", "it is full")
    halted = Halted("app", level=3)
    assert (halted.what, halted.level) == ("app", 3)


def test_the_tree_of_errors_says_who_is_to_blame() -> None:
    for theirs in (Malformed, Untrusted, Stale, TooLarge):
        assert issubclass(theirs, Refused)
    for kind in (Refused, Unavailable, Halted):
        assert issubclass(kind, FiredoorError)
    assert not issubclass(Unavailable, Refused)
    assert not issubclass(Halted, Refused)


def test_codes_are_stable_and_different() -> None:
    kinds = (Malformed, Untrusted, Stale, TooLarge, Unavailable, Halted)
    codes = [kind.code for kind in kinds]
    assert codes == ["malformed", "untrusted", "stale", "too-large", "unavailable", "halted"]


# --- units


def test_after_and_between_undo_each_other() -> None:
    assert after(Instant(10.0), Span(2.5)) == Instant(12.5)
    assert between(Instant(10.0), Instant(12.5)) == Span(2.5)
    assert between(Instant(12.5), Instant(10.0)) == Span(-2.5)


def test_sizes_are_binary() -> None:
    assert (KIB, MIB) == (1024, 1_048_576)


# --- identity


@pytest.mark.parametrize("name", ["a", "_a", "9", "app-1.2+b_3", "x" * 64])
def test_a_plain_name_passes_unchanged(name: str) -> None:
    assert checked_name("site", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "+a", "a/b", "a\\b", "a b", "a\n", "a\x00", "é", "a:b", "x" * 65],
)
def test_a_name_that_could_leave_its_folder_or_line_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match="site: wanted 1 to 64 of"):
        checked_name("site", name)


def test_a_refused_name_is_quoted_only_in_part() -> None:
    with pytest.raises(Malformed) as caught:
        checked_name("site", "x" * 10_000)
    assert len(str(caught.value)) < 200


def test_a_peer_is_current_unless_said_otherwise() -> None:
    assert Peer(PeerId("0" * 32), Role.AGENT, "berlin").is_current
    assert [role.value for role in Role] == ["mirror", "agent", "operator"]


# --- dice


def test_dice_throw_what_the_paper_throws() -> None:
    # The first outputs of SplitMix64 for seed 1234567, as its reference implementation gives them.
    dice = Dice(1234567)
    assert [dice.throw() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_the_same_seed_throws_the_same() -> None:
    one, two, other = Dice(7), Dice(7 + 2**64), Dice(8)
    throws = [one.throw() for _ in range(20)]
    assert throws == [two.throw() for _ in range(20)]
    assert throws != [other.throw() for _ in range(20)]


def test_dice_stay_in_their_bounds_and_reach_them() -> None:
    dice = Dice(1)
    assert {dice.below(6) for _ in range(200)} == set(range(6))
    assert {dice.pick("abc") for _ in range(100)} == set("abc")
    fractions = [dice.fraction() for _ in range(1000)]
    assert min(fractions) >= 0.0
    assert max(fractions) < 1.0
    assert 0.45 < sum(fractions) / len(fractions) < 0.55


def test_dice_without_sides_are_misuse() -> None:
    with pytest.raises(ValueError, match="bound: wanted 1 or more, got 0"):
        Dice(1).below(0)
    with pytest.raises(ValueError, match="bound"):
        Dice(1).pick([])


# --- codec


def test_a_record_comes_back_as_it_went() -> None:
    assert decoded(encode(WHOLE)) == WHOLE


def test_a_field_with_a_default_may_be_missing() -> None:
    assert decoded(pack({"text": "a", "data": b"", "share": 1.0})) == Whole("a", b"", 1.0)


def test_a_record_cut_at_any_byte_is_refused() -> None:
    data = encode(WHOLE)
    for end in range(len(data)):
        with pytest.raises(Malformed):
            decoded(data[:end])


@pytest.mark.parametrize("tail", [b"\x00", b"\xc0", b"\xc1", encode(WHOLE)])
def test_a_record_with_a_tail_is_refused(tail: bytes) -> None:
    with pytest.raises(Malformed):
        decoded(encode(WHOLE) + tail)


def test_a_key_that_comes_twice_is_refused_at_any_depth() -> None:
    twice = b"\x82\xa1a\x01\xa1a\x01"
    for data in (twice, b"\x91" + twice, b"\x81\xa1b" + twice):
        with pytest.raises(Malformed, match="a key twice"):
            unpack(data, what="map", limit=LIMIT)


@pytest.mark.parametrize("key", [1, None, 1.5, True, b"text", [1], {"a": 1}])
def test_a_key_that_is_not_text_is_refused(key: object) -> None:
    with pytest.raises(Malformed):
        unpack(b"\x81" + pack(key) + b"\x01", what="map", limit=LIMIT)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(Malformed, match="wanted known fields only, got extra"):
        decoded(changed(extra=1))


def test_an_unknown_field_of_an_inner_record_is_refused() -> None:
    with pytest.raises(Malformed):
        decoded(changed(parts=[{"number": 1, "extra": 2}]))


def test_a_missing_field_is_refused() -> None:
    for name in ("text", "data", "share"):
        fields = asdict(WHOLE)
        del fields[name]
        with pytest.raises(Malformed, match=name):
            decoded(pack(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": b"a"},
        {"text": 1},
        {"text": None},
        {"data": [0, 255]},
        {"data": None},
        {"share": "0.5"},
        {"share": True},
        {"is_last": 1},
        {"is_last": "true"},
        {"names": "xy"},
        {"names": [1]},
        {"names": {"x": "y"}},
        {"parts": [1]},
        {"parts": [[1]]},
        {"parts": [{"number": "1"}]},
        {"parts": [{"number": 1.0}]},
        {"parts": [{"number": True}]},
        {"parts": [{}]},
    ],
)
def test_a_field_of_another_type_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decoded(changed(**fields))


def test_text_does_not_pass_for_bytes() -> None:
    # A second encoding of the same record would be a second name for the same signed fact.
    with pytest.raises(Malformed):
        decoded(changed(data="AP8="))


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", [], [["text", "a"]]])
def test_a_record_that_is_no_map_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="wanted a map"):
        record(Whole, value, what="whole")


def test_size_is_judged_before_the_first_byte() -> None:
    data = b"\xc1" * (LIMIT + 1)
    with pytest.raises(TooLarge) as caught:
        decoded(data)
    assert (caught.value.limit, caught.value.size) == (LIMIT, LIMIT + 1)
    with pytest.raises(Malformed):
        decoded(data[:LIMIT])


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_a_length_that_the_data_cannot_hold_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(head + b"\xff\xff\xff\xff\x01", what="value", limit=LIMIT)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
def test_deep_nesting_is_refused_and_exhausts_nothing(opening: bytes) -> None:
    data = opening * 100_000 + b"\xc0"
    with pytest.raises(Malformed):
        unpack(data, what="value", limit=len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xa1\xff",  # text that is not UTF-8
        b"\xa3\xed\xa0\x80",  # half of a surrogate pair
        b"\xd5\xff\x00\x00",  # a time of two bytes
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a time with too many nanoseconds
    ],
)
def test_what_is_no_msgpack_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(data, what="value", limit=LIMIT)


def test_a_refusal_stays_short_however_long_the_input() -> None:
    with pytest.raises(Malformed) as caught:
        decoded(changed(**{"x" * 3000: 1}))
    assert len(str(caught.value)) < 300


def test_only_a_record_is_encoded() -> None:
    for value in ({"text": "a"}, Whole, 1):
        with pytest.raises(ValueError, match="wanted a record"):
            encode(value)

"""Any bytes: a value comes out, or one of the two errors that the codec declares."""

from contextlib import suppress
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from firedoor.errors import Malformed, TooLarge
from firedoor.wire.codec import decode, encode, pack, unpack

LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    number: int
    text: str = ""
    data: bytes = b""
    numbers: tuple[int, ...] = ()
    is_last: bool = False


SAMPLES = st.builds(
    Sample,
    number=st.integers(-(2**63), 2**64 - 1),
    text=st.text(max_size=20),
    data=st.binary(max_size=20),
    numbers=st.lists(st.integers(0, 2**32), max_size=5).map(tuple),
    is_last=st.booleans(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.binary(max_size=2 * LIMIT))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    with suppress(Malformed, TooLarge):
        unpack(data, what="value", limit=LIMIT)


@given(st.binary(max_size=LIMIT))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with suppress(Malformed):
        assert isinstance(decode(Sample, data, what="sample", limit=LIMIT), Sample)


@given(VALUES)
def test_a_value_comes_back_as_it_went(value: object) -> None:
    data = pack(value)
    assert unpack(data, what="value", limit=len(data)) == value


@given(VALUES)
def test_any_value_is_a_record_or_refused(value: object) -> None:
    data = pack(value)
    with suppress(Malformed):
        decode(Sample, data, what="sample", limit=len(data))


@given(SAMPLES, st.data())
def test_a_bent_record_is_a_record_or_refused(sample: Sample, data: st.DataObject) -> None:
    whole = bytearray(encode(sample))
    assert decode(Sample, bytes(whole), what="sample", limit=LIMIT) == sample
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with suppress(Malformed):
        decode(Sample, bytes(whole), what="sample", limit=LIMIT)


@given(SAMPLES, st.data())
def test_a_cut_record_is_refused(sample: Sample, data: st.DataObject) -> None:
    whole = encode(sample)
    end = data.draw(st.integers(0, len(whole) - 1))
    is_refused = False
    try:
        decode(Sample, whole[:end], what="sample", limit=LIMIT)
    except Malformed:
        is_refused = True
    assert is_refused

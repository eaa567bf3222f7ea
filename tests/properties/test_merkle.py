"""Every value has a path to the root, no other value has, and roots may be leaves again."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firedoor.errors import Malformed
from firedoor.halt.merkle import AGAIN, LEFT, climb, paths_of, root_of

values = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=40, unique=True)


def by_rfc(items: list[bytes]) -> bytes:
    """RFC 6962's own recursive definition, for comparison."""
    if len(items) == 1:
        return sha256(b"\x00" + items[0]).digest()
    split = 1
    while split * 2 < len(items):
        split *= 2
    return sha256(b"\x01" + by_rfc(items[:split]) + by_rfc(items[split:])).digest()


@given(values)
def test_the_root_is_that_of_the_rfc(items: list[bytes]) -> None:
    assert root_of(items) == by_rfc(items)


@given(values)
def test_each_value_climbs_to_the_root(items: list[bytes]) -> None:
    paths = paths_of(items)
    assert [climb(item, path) for item, path in zip(items, paths, strict=True)] == [
        root_of(items)
    ] * len(items)


@given(values, st.binary(min_size=1, max_size=40))
def test_no_other_value_climbs_to_the_root(items: list[bytes], other: bytes) -> None:
    reached = {climb(other, path) for path in paths_of(items)}
    assert (root_of(items) in reached) == (other in items)


@given(values, values)
def test_a_root_may_be_a_leaf_of_a_larger_tree(inner: list[bytes], outer: list[bytes]) -> None:
    leaves = [*outer, root_of(inner)]
    above = paths_of(leaves)[-1]
    for item, path in zip(inner, paths_of(inner), strict=True):
        assert climb(item, (*path, AGAIN, *above)) == root_of(leaves)


def test_nothing_has_the_root_of_the_empty_string_and_no_path() -> None:
    assert (root_of([]), paths_of([])) == (sha256(b"").digest(), [])


@pytest.mark.parametrize("step", [b"", b"x" + bytes(32), LEFT, LEFT + bytes(31), AGAIN + bytes(32)])
def test_a_step_that_is_none_is_refused(step: bytes) -> None:
    with pytest.raises(Malformed, match="Merkle path"):
        climb(b"value", (step,))

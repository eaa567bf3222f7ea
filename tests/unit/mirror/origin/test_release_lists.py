"""Each thing that the origin asks of a publisher's list, one at a time."""

import dataclasses
import datetime as dt
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from firedoor.errors import Malformed, TooLarge, Untrusted
from firedoor.limits import COUNTER_STEP_MAX, METADATA_BYTES_MAX, RELEASE_LIST_BYTES_MAX
from firedoor.pieces.manifest import Manifest, encode_manifest
from firedoor.trust.repository import add_release
from firedoor.units import UnixTime
from mirror.origin.release_lists import check_bytes, check_list, check_order, deepest
from tests.unit.origin_bench import ROLE, facts, release

NOW = UnixTime(1_790_000_000)
DAY_S = 86_400


def list_of(*manifests: Manifest, days: float = 30, padding: str = "") -> Metadata[Targets]:
    """A publisher's list that runs for so many days, its rows padded in their `custom` facts."""
    expires = dt.datetime.fromtimestamp(NOW + days * DAY_S, dt.UTC)
    new = Metadata(Targets(expires=expires))
    for each in manifests:
        data = encode_manifest(each)
        path = f"releases/{each.product}/{each.version}"
        custom: dict[str, Any] = facts(each)
        add_release(new, path, data, custom=custom, expires=expires)
        if padding:
            new.signed.targets[path].custom["notes"] = padding
    return new


@pytest.fixture
def manifest() -> Manifest:
    return release(None)


def test_a_list_of_known_fields_that_runs_for_a_month_is_taken(manifest: Manifest) -> None:
    new = list_of(manifest)
    check_bytes(new.to_bytes())
    check_list(ROLE, new, NOW)


def test_bytes_above_the_limit_of_metadata_are_not_read() -> None:
    with pytest.raises(TooLarge, match="metadata"):
        check_bytes(bytes(METADATA_BYTES_MAX + 1))


def test_brackets_in_brackets_beyond_any_list_are_refused() -> None:
    check_bytes(b"[" * 12 + b"]" * 12)
    with pytest.raises(Malformed, match="levels"):
        check_bytes(b"[" * 13 + b"]" * 13)


@pytest.mark.parametrize(
    ("text", "levels"),
    [(rb'{"a": [1, {"b": 2}]}', 3), (rb'"[[[["', 0), (rb'["\"[[", []]', 2), (rb'["\\", [[]]]', 3)],
)
def test_brackets_in_strings_do_not_count(text: bytes, levels: int) -> None:
    assert deepest(text) == levels


def test_a_list_too_long_as_this_version_writes_it_is_refused(manifest: Manifest) -> None:
    new = list_of(manifest, padding="x" * RELEASE_LIST_BYTES_MAX)
    with pytest.raises(TooLarge, match="list of releases"):
        check_list(ROLE, new, NOW)


def test_a_list_that_runs_out_within_a_week_is_refused(manifest: Manifest) -> None:
    check_list(ROLE, list_of(manifest, days=7.5), NOW)
    with pytest.raises(Untrusted, match="7 days"):
        check_list(ROLE, list_of(manifest, days=6.5), NOW)


@pytest.mark.parametrize("place", ["metadata", "signed", "row"])
def test_a_field_that_this_version_does_not_know_is_refused(manifest: Manifest, place: str) -> None:
    new = list_of(manifest)
    (row,) = new.signed.targets.values()
    holder: Any = {"metadata": new, "signed": new.signed, "row": row}[place]
    holder.unrecognized_fields["later"] = 1
    with pytest.raises(Malformed, match="known fields only"):
        check_list(ROLE, new, NOW)


def test_a_row_with_another_digest_beside_sha256_is_refused(manifest: Manifest) -> None:
    new = list_of(manifest)
    (row,) = new.signed.targets.values()
    row.hashes["sha512"] = "0" * 128
    with pytest.raises(Malformed, match="SHA-256"):
        check_list(ROLE, new, NOW)


def test_a_counter_far_above_all_others_is_refused(manifest: Manifest) -> None:
    old = list_of(manifest).signed
    highest = manifest.counter + COUNTER_STEP_MAX
    check_order(dataclasses.replace(manifest, counter=highest, floor=0), old)
    with pytest.raises(Malformed, match="counter"):
        check_order(dataclasses.replace(manifest, counter=highest + 1, floor=0), old)


def test_a_floor_that_is_no_releases_counter_is_refused(manifest: Manifest) -> None:
    old = list_of(manifest).signed
    new = dataclasses.replace(manifest, counter=manifest.counter + 5)
    for floor in (0, manifest.counter, new.counter):
        check_order(dataclasses.replace(new, floor=floor), old)
    with pytest.raises(Malformed, match="floor"):
        check_order(dataclasses.replace(new, floor=new.counter - 1), old)

"""Other keys for a role: what the origin takes, whom endpoints follow, and what a crash leaves."""

import dataclasses
import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import DelegatedRole, Metadata, Root, TargetFile, Targets

import mirror.origin.origin
import mirror.origin.repository
from firedoor.errors import Malformed, Stale, Untrusted
from firedoor.halt.order import read_beacon
from firedoor.runtime.files import durable_write
from firedoor.trust.keys import key_of, public_key
from firedoor.trust.repository import (
    RolePublic,
    RoleSeeds,
    rotate_delegation,
    rotate_root,
    signed_anew,
    signed_by,
)
from firedoor.wire.codec import pack
from tests.unit.origin_bench import NOW, ROLE, Bench, PowerCutError, release, reopened

LATER = dt.datetime.fromtimestamp(NOW + 90 * 86400, dt.UTC).replace(microsecond=0)
NEW = bytes([77]) * 32


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.publish(release(bench.store))
    return bench


def top(bench: Bench, kind: Any) -> Metadata[Any]:
    """The newest root or targets of the origin."""
    name = "root" if kind is Root else "targets"
    paths = (bench.fleet / "origin" / "metadata").glob(f"*.{name}.json")
    newest = max(paths, key=lambda path: int(path.name.partition(".")[0]))
    return Metadata[Any].from_bytes(newest.read_bytes())


def delegate(bench: Bench, role: str, *seeds: bytes, **changes: Any) -> dict[str, Any]:
    """A rotation of a delegated role, signed by root."""
    new = RoleSeeds(seeds, changes.get("threshold", 1))
    signers = changes.get("signers", [bench.seed("root-1")])
    turned = rotate_delegation(top(bench, Targets), role, new, signers=signers, expires=LATER)
    return {"targets": turned.to_bytes()}


def turn_root(bench: Bench, *seeds: bytes, expires: dt.datetime = LATER) -> dict[str, Any]:
    new, signers = RoleSeeds(seeds, 1), [bench.seed("root-1")]
    root = rotate_root(top(bench, Root), "root", new, signers=signers, expires=expires)
    targets = signed_anew(top(bench, Targets), seeds, LATER)
    return {"root": root.to_bytes(), "targets": targets.to_bytes()}


def turn_publisher(bench: Bench, seed: bytes) -> dict[str, Any]:
    listed = signed_anew(bench.releases(), [seed], LATER)
    return delegate(bench, ROLE, seed) | {"lists": {ROLE: listed.to_bytes()}}


def turn_timestamp(bench: Bench) -> dict[str, Any]:
    new = RolePublic((public_key(bench.origin.fresh_key("timestamp")),), 1)
    root = rotate_root(
        top(bench, Root), "timestamp", new, signers=[bench.seed("root-1")], expires=LATER
    )
    return {"root": root.to_bytes()}


def turn_beacon(bench: Bench) -> dict[str, Any]:
    new = RolePublic((public_key(bench.origin.fresh_key("beacon")),), 1)
    turned = rotate_delegation(
        top(bench, Targets), "beacon", new, signers=[bench.seed("root-1")], expires=LATER
    )
    return {"targets": turned.to_bytes()}


TURNS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "root": lambda bench: turn_root(bench, NEW),
    "halt": lambda bench: delegate(bench, "halt", NEW),
    "publisher": lambda bench: turn_publisher(bench, NEW),
    "timestamp": turn_timestamp,
    "beacon": turn_beacon,
}


def trusts(bench: Bench, folder: Path) -> list[str]:
    """What an endpoint that trusted the fleet before follows now: versions of its product."""
    client = bench.client(folder)
    client.refresh()
    assert not client.unlisted
    return [entry.version for entry in client.releases()]


@pytest.mark.parametrize("name", TURNS)
def test_endpoints_old_and_new_follow_a_rotation(bench: Bench, tmp_path: Path, name: str) -> None:
    assert trusts(bench, tmp_path / "old") == ["1.0"]
    bench.origin.accept_rotation(pack(TURNS[name](bench)))
    assert trusts(bench, tmp_path / "old") == ["1.0"]
    assert trusts(bench, tmp_path / "new") == ["1.0"]


@pytest.mark.parametrize("name", TURNS)
def test_an_origin_starts_again_after_a_rotation(bench: Bench, tmp_path: Path, name: str) -> None:
    bench.origin.accept_rotation(pack(TURNS[name](bench)))
    bench.origin.close()
    again = reopened(tmp_path / "first")
    assert trusts(again, tmp_path / "endpoint") == ["1.0"]
    assert again.origin.resign_timestamp() is False
    again.origin.close()


@pytest.mark.parametrize("name", TURNS)
def test_a_power_cut_at_any_write_leaves_the_old_keys_or_the_new(
    bench: Bench, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trusts(bench, tmp_path / "endpoint") == ["1.0"]
    body = pack(TURNS[name](bench))
    bench.origin.close()
    for number in range(20):
        folder = tmp_path / f"cut-{number}"
        shutil.copytree(tmp_path / "first", folder)
        left = [number]

        def write(path: Path, data: bytes, mode: int = 0o644, left: list[int] = left) -> None:
            if left[0] == 0:
                raise PowerCutError
            left[0] -= 1
            durable_write(path, data, mode)

        cut = reopened(folder)
        with monkeypatch.context() as patch:
            patch.setattr(mirror.origin.repository, "durable_write", write)
            patch.setattr(mirror.origin.origin, "durable_write", write)
            try:
                cut.origin.accept_rotation(body)
                is_done = True
            except PowerCutError:
                is_done = False
        cut.origin.close()
        after = reopened(folder)
        shutil.copytree(tmp_path / "endpoint", folder / "endpoint")
        assert trusts(after, folder / "endpoint") == ["1.0"]
        assert trusts(after, folder / "newcomer") == ["1.0"]
        after.origin.close()
        if is_done:
            assert number > 2
            return
    raise AssertionError("a rotation has fewer than twenty writes")


def test_a_publisher_with_a_new_key_publishes_on(bench: Bench, tmp_path: Path) -> None:
    bench.origin.accept_rotation(pack(TURNS["publisher"](bench)))
    second = dataclasses.replace(release(bench.store, "2.0"), counter=2)
    with pytest.raises(Untrusted):
        bench.publish(second)
    bench.publish(second, seed=NEW)
    assert trusts(bench, tmp_path / "endpoint") == ["1.0", "2.0"]


def test_a_turned_beacon_key_signs_the_next_beacon(bench: Bench, tmp_path: Path) -> None:
    bench.origin.accept_rotation(pack(TURNS["beacon"](bench)))
    client = bench.client(tmp_path / "endpoint")
    client.refresh()
    named, _ = read_beacon(bench.origin.signer.beacon((bytes(32),)), client.authority(NOW))
    assert named == {bytes(32)}


def test_a_rotation_that_turns_no_key_is_refused(bench: Bench) -> None:
    listed = signed_anew(bench.releases(), [bench.seed()], LATER)
    for change in ({}, {"lists": {ROLE: listed.to_bytes()}}):
        with pytest.raises(Malformed, match="root has turned"):
            bench.origin.accept_rotation(pack(change))


def test_a_rotation_that_root_did_not_sign_is_refused(bench: Bench) -> None:
    with pytest.raises(Untrusted):
        bench.origin.accept_rotation(pack(delegate(bench, "halt", NEW, signers=[NEW])))


@pytest.mark.parametrize("signer", ["the old root alone", "the new root alone"])
def test_root_keys_that_old_and_new_root_did_not_both_sign_are_refused(
    bench: Bench, signer: str
) -> None:
    change = turn_root(bench, NEW)
    root = Metadata[Root].from_bytes(change["root"])
    root.signatures.clear()
    seed = bench.seed("root-1") if signer == "the old root alone" else NEW
    change["root"] = signed_by(root, [seed]).to_bytes()
    with pytest.raises(Untrusted, match="root"):
        bench.origin.accept_rotation(pack(change))


def test_a_root_past_its_date_is_refused(bench: Bench) -> None:
    past = dt.datetime.fromtimestamp(NOW - 86400, dt.UTC)
    change = turn_root(bench, NEW, expires=past)
    with pytest.raises(Untrusted, match="a date to come"):
        bench.origin.accept_rotation(pack(change))


def test_a_rotation_taken_twice_is_stale(bench: Bench) -> None:
    body = pack(TURNS["halt"](bench))
    bench.origin.accept_rotation(body)
    with pytest.raises(Stale):
        bench.origin.accept_rotation(body)


def test_new_root_keys_without_targets_by_them_are_refused(bench: Bench) -> None:
    change = turn_root(bench, NEW)
    with pytest.raises(Untrusted, match="targets"):
        bench.origin.accept_rotation(pack({"root": change["root"]}))


def test_a_publishers_new_key_without_its_list_is_refused(bench: Bench) -> None:
    with pytest.raises(Untrusted, match="releases/main"):
        bench.origin.accept_rotation(pack(delegate(bench, ROLE, NEW)))


def test_an_online_key_that_this_origin_does_not_hold_is_refused(bench: Bench) -> None:
    with pytest.raises(Malformed, match="beacon"):
        bench.origin.accept_rotation(pack(delegate(bench, "beacon", NEW)))


def test_only_online_keys_are_made_by_the_origin(bench: Bench) -> None:
    with pytest.raises(Malformed, match="snapshot or timestamp or beacon"):
        bench.origin.fresh_key("halt")


def roles_of(targets: Targets) -> dict[str, DelegatedRole]:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    return targets.delegations.roles


def dropped(targets: Targets) -> None:
    del roles_of(targets)["promote"]


def added(targets: Targets) -> None:
    keyids = roles_of(targets)["promote"].keyids
    roles_of(targets)["releases/other"] = DelegatedRole(
        "releases/other", keyids, 1, terminating=False, paths=["releases/*/*"]
    )


def direct(targets: Targets) -> None:
    targets.targets["releases/app/9"] = TargetFile.from_data("releases/app/9", b"bytes")


@pytest.mark.parametrize(
    ("change", "why"),
    [(dropped, "roles of the brake"), (added, "one of releases/other"), (direct, "of the brake")],
)
def test_a_rotation_that_changes_more_than_keys_is_refused(
    bench: Bench, change: Callable[[Targets], None], why: str
) -> None:
    targets = top(bench, Targets)
    change(targets.signed)
    targets.signed.version += 1
    targets.signatures.clear()
    with pytest.raises(Malformed, match=why):
        bench.origin.accept_rotation(
            pack({"targets": signed_by(targets, [bench.seed("root-1")]).to_bytes()})
        )


def test_a_list_that_changes_a_release_is_refused(bench: Bench) -> None:
    listed = signed_anew(bench.releases(), [NEW], LATER)
    listed.signed.targets.clear()
    listed.signatures.clear()
    change = delegate(bench, ROLE, NEW) | {"lists": {ROLE: signed_by(listed, [NEW]).to_bytes()}}
    with pytest.raises(Malformed, match="same releases"):
        bench.origin.accept_rotation(pack(change))


def test_a_list_of_nobody_is_refused(bench: Bench) -> None:
    change = TURNS["publisher"](bench)
    change["lists"]["releases/other"] = change["lists"][ROLE]
    with pytest.raises(Malformed, match="publishers of this fleet"):
        bench.origin.accept_rotation(pack(change))


def test_a_rotation_past_its_date_is_refused(bench: Bench) -> None:
    past = dt.datetime.fromtimestamp(NOW - 86400, dt.UTC)
    signers = [bench.seed("root-1")]
    new = RoleSeeds((NEW,), 1)
    turned = rotate_delegation(top(bench, Targets), "halt", new, signers=signers, expires=past)
    with pytest.raises(Untrusted, match="a date to come"):
        bench.origin.accept_rotation(pack({"targets": turned.to_bytes()}))


def test_the_key_id_of_a_public_half_is_that_of_its_seed() -> None:
    assert public_key(key_of(NEW).keyval["public"]).keyid == key_of(NEW).keyid

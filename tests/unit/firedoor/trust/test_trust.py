"""Keys, authorities, signatures, the signed repository, and the client that believes it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from firedoor.errors import FiredoorError, Malformed, Stale, Unavailable, Untrusted
from firedoor.identity import FleetId
from firedoor.limits import SIGNATURES_MAX
from firedoor.runtime.metadata.trust_client import TrustClient, fleet_of
from firedoor.trust import repository
from firedoor.trust.keys import (
    SURVIVORS,
    Authority,
    NaclKey,
    NaclSigner,
    RoleKeys,
    authority_of,
    key_of,
    register,
)
from firedoor.trust.repository import RoleSeeds, signed_by
from firedoor.trust.signing import sign, signed_bytes, verified_keyids
from firedoor.units import UnixTime

FLEET = FleetId("f" * 32)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
PAST = datetime(2001, 1, 1, tzinfo=UTC)
NOW = UnixTime(1_700_000_000)
MAIN = "releases/main"


def seed(number: int) -> bytes:
    return bytes([number]) * 32


ROOT = RoleSeeds((seed(1), seed(2)), 2)
SNAPSHOT, TIMESTAMP = seed(3), seed(4)
ROLES = {
    MAIN: RoleSeeds((seed(5),), 1),
    "halt": RoleSeeds((seed(6), seed(7)), 1),
    "resume": RoleSeeds((seed(8), seed(9)), 2),
    "promote": RoleSeeds((seed(10),), 1),
    "beacon": RoleSeeds((seed(11),), 1),
}

FACTS = {"counter": 1, "content": "c" * 64, "handler": "files", "critical_fix": False}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


class Server:
    """A repository in memory, signed anew at each `publish`."""

    def __init__(self, roles: dict[str, RoleSeeds] | None = None) -> None:
        self.roles = roles or ROLES
        self.root = repository.new_root(ROOT, snapshot=SNAPSHOT, timestamp=TIMESTAMP, expires=LATER)
        self.targets = repository.new_targets(ROOT, self.roles, LATER)
        self.lists = {
            name: repository.new_releases(seeds, LATER)
            for name, seeds in self.roles.items()
            if name.startswith("releases/")
        }
        self.files: dict[str, bytes] = {"1.root.json": self.root.to_bytes()}
        self.asked: list[str] = []
        self.version = 0

    def release(self, path: str, role: str = MAIN, custom: Any = None) -> None:
        facts = FACTS if custom is None else custom
        repository.add_release(
            self.lists[role], path, b"manifest of " + path.encode(), custom=facts, expires=LATER
        )
        signed_by(self.lists[role], self.roles[role].seeds)

    def publish(self, expires: datetime = LATER) -> None:
        self.version += 1
        self.files[f"{self.root.signed.version}.root.json"] = self.root.to_bytes()
        self.files[f"{self.targets.signed.version}.targets.json"] = self.targets.to_bytes()
        snapshot = repository.new_snapshot({}, SNAPSHOT, LATER)
        snapshot.signed.version = self.version
        snapshot.signed.meta["targets.json"] = MetaFile(self.targets.signed.version)
        for name, metadata in self.lists.items():
            version = metadata.signed.version
            snapshot.signed.meta[f"{name}.json"] = MetaFile(version)
            self.files[f"{version}.{quote(name, safe='')}.json"] = metadata.to_bytes()
        snapshot.sign(NaclSigner(SNAPSHOT))
        data = self.files[f"{self.version}.snapshot.json"] = snapshot.to_bytes()
        timestamp = repository.new_timestamp(data, TIMESTAMP, expires)
        timestamp.signed.version = self.version
        timestamp.signed.snapshot_meta.version = self.version
        timestamp.sign(NaclSigner(TIMESTAMP))
        self.files["timestamp.json"] = timestamp.to_bytes()

    def delegate(self, change: Callable[[Targets], None]) -> None:
        change(self.targets.signed)
        self.targets.signed.version += 1
        self.targets.signatures.clear()
        signed_by(self.targets, ROOT.seeds)

    def fetch(self, name: str, limit: int) -> bytes:
        self.asked.append(name)
        if name not in self.files:
            raise DownloadHTTPError("missing", 404)
        assert len(self.files[name]) <= limit
        return self.files[name]

    def client(self, folder: Path) -> TrustClient:
        root = self.files["1.root.json"]
        return TrustClient(folder, fleet_of(root), self.fetch, root)


@pytest.fixture
def server() -> Server:
    made = Server()
    made.release("releases/shop/1.0")
    made.publish()
    return made


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_id_is_the_one_that_other_tuf_tools_compute() -> None:
    signer = CryptoSigner.generate_ed25519()
    private = signer.private_bytes

    raw = load_pem_private_key(private, None).private_bytes_raw()  # type: ignore[union-attr]  # Ed25519
    assert key_of(raw).keyid == signer.public_key.keyid
    assert key_of(raw).to_dict() == signer.public_key.to_dict()


def test_a_signature_verifies_under_securesystemslib_and_under_ours() -> None:
    signature = NaclSigner(seed(1)).sign(b"data")
    ours = key_of(seed(1))
    ours.verify_signature(signature, b"data")
    ours.verify_signature(signature, b"data")
    SSlibKey(ours.keyid, ours.keytype, ours.scheme, ours.keyval).verify_signature(
        signature, b"data"
    )


@pytest.mark.parametrize("value", ["00" * 64, "00", "zz", ""])
def test_a_wrong_signature_is_refused(value: str) -> None:
    key = key_of(seed(1))
    with pytest.raises(UnverifiedSignatureError):
        key.verify_signature(Signature(key.keyid, value), b"data")


@pytest.mark.parametrize("public", ["00", "zz"])
def test_a_key_of_another_size_verifies_nothing(public: str) -> None:
    key = NaclKey("id", "ed25519", "ed25519", {"public": public})
    with pytest.raises(UnverifiedSignatureError):
        key.verify_signature(NaclSigner(seed(1)).sign(b"data"), b"data")


def test_a_key_without_a_public_value_is_refused() -> None:
    with pytest.raises(ValueError, match="public value"):
        NaclKey("id", "ed25519", "ed25519", {"public": 1})


def test_metadata_is_parsed_into_our_keys(server: Server) -> None:
    root = Metadata[Root].from_bytes(server.files["1.root.json"])
    assert {type(key) for key in root.signed.keys.values()} == {NaclKey}


def test_a_signer_by_uri_is_refused() -> None:
    with pytest.raises(ValueError, match="key file"):
        NaclSigner.from_priv_key_uri("file:key", key_of(seed(1)))


# --- authority ----------------------------------------------------------------------------------


def authority(server: Server, now: UnixTime = NOW) -> Authority:
    return authority_of(server.root, server.targets, fleet=FLEET, now=now)


def test_an_authority_has_every_delegated_role(server: Server) -> None:
    found = authority(server)
    assert set(found.roles) == set(ROLES)
    assert found.roles["resume"].threshold == 2
    assert set(found.roles["halt"].keys) == {key_of(seed(6)).keyid, key_of(seed(7)).keyid}
    assert found.is_fresh


def test_an_expired_authority_is_known_but_not_fresh(server: Server) -> None:
    server.delegate(lambda signed: setattr(signed, "expires", PAST))
    found = authority(server)
    assert not found.is_fresh
    assert found.roles


def test_an_authority_is_fresh_until_the_second_of_its_date(server: Server) -> None:
    assert authority(server, UnixTime(int(LATER.timestamp()) - 1)).is_fresh
    assert not authority(server, UnixTime(int(LATER.timestamp()))).is_fresh


def test_targets_below_roots_threshold_are_refused(server: Server) -> None:
    server.targets.signatures.popitem()
    with pytest.raises(Untrusted):
        authority(server)


def test_a_root_file_is_no_targets_file_though_the_same_keys_sign_both(server: Server) -> None:
    root: Any = server.root
    with pytest.raises(Malformed, match="type targets"):
        authority_of(server.root, root, fleet=FLEET, now=NOW)


def test_a_root_threshold_of_zero_is_refused(server: Server) -> None:
    server.root.signed.roles["targets"].threshold = 0
    server.targets.signatures.clear()
    with pytest.raises(Malformed, match="threshold"):
        authority(server)


@pytest.mark.parametrize(
    "field",
    [
        ["halt", []],
        {"role": "halt"},
        {"role": "halt", "ids": [], "more": 1},
        {"role": 1, "ids": []},
        {"role": "halt", "ids": "ab"},
    ],
)
def test_survivors_that_are_no_role_and_ids_are_refused(server: Server, field: object) -> None:
    def name(signed: Targets) -> None:
        signed.unrecognized_fields[SURVIVORS] = field

    server.delegate(name)
    with pytest.raises(Malformed, match=SURVIVORS):
        authority(server)


def delegated(signed: Targets) -> Any:
    assert signed.delegations is not None
    return signed.delegations


def one_key_twice(signed: Targets) -> None:
    key = key_of(seed(6))
    delegated(signed).keys["f" * 64] = NaclKey("f" * 64, "ed25519", "ed25519", key.keyval)
    delegated(signed).roles["halt"].keyids = [key.keyid, "f" * 64]


def foreign_key(public: str, scheme: str = "ed25519") -> Callable[[Targets], None]:
    def change(signed: Targets) -> None:
        delegated(signed).keys["f" * 64] = NaclKey("f" * 64, scheme, scheme, {"public": public})
        delegated(signed).roles["halt"].keyids = ["f" * 64]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda signed: setattr(delegated(signed).roles["halt"], "threshold", 0), "threshold"),
        (lambda signed: setattr(delegated(signed).roles["halt"], "threshold", 3), "its threshold"),
        (lambda signed: delegated(signed).roles["halt"].keyids.append("0" * 64), "without a key"),
        (lambda signed: delegated(signed).roles["halt"].keyids.extend(
            delegated(signed).roles["halt"].keyids), "one twice"),
        (one_key_twice, "under two ids"),
        (foreign_key("00" * 32, "other"), "ed25519 keys"),
        (foreign_key("zz" * 32), "in hex"),
        (foreign_key("00" * 31), "32 bytes"),
        (lambda signed: setattr(signed, "delegations", None), "delegations"),
    ],
)  # fmt: skip
def test_an_unusable_role_is_refused(
    server: Server, change: Callable[[Targets], None], sentence: str
) -> None:
    server.delegate(change)
    with pytest.raises(Malformed, match=sentence):
        authority(server)


# --- signatures ---------------------------------------------------------------------------------


def signed(*seeds: bytes, message: bytes = b"m") -> list[tuple[str, bytes]]:
    return [(key_of(each).keyid, sign(each, message)) for each in seeds]


def test_the_signed_bytes_name_fleet_and_kind() -> None:
    assert signed_bytes(FLEET, "halt", b"x") == b"firedoor/" + b"f" * 32 + b"/halt/v1\0x"


def test_each_right_key_of_a_role_counts_once(server: Server) -> None:
    found = authority(server)
    signatures = signed(seed(6), seed(6), seed(7), seed(8))
    wanted = {key_of(seed(6)).keyid, key_of(seed(7)).keyid}
    assert verified_keyids(found.roles.get("halt"), b"m", signatures) == wanted


def test_a_signature_over_other_bytes_or_of_another_size_counts_nothing(server: Server) -> None:
    found = authority(server)
    keyid = key_of(seed(6)).keyid
    bad: Any = [*signed(seed(6), message=b"n"), (keyid, b""), (keyid, b"x" * 64), (keyid, "text")]
    assert verified_keyids(found.roles.get("halt"), b"m", bad) == frozenset()


def test_an_unknown_role_has_no_keys(server: Server) -> None:
    assert verified_keyids(authority(server).roles.get("ban"), b"m", signed(seed(6))) == frozenset()


def test_a_broken_key_in_an_authority_counts_nothing() -> None:
    broken = Authority(FLEET, 1, {"halt": RoleKeys(1, {"k": b"short"})}, is_fresh=True)
    assert verified_keyids(broken.roles.get("halt"), b"m", [("k", b"x" * 64)]) == frozenset()


def test_signatures_beyond_the_limit_are_not_looked_at(server: Server) -> None:
    many = [("unknown", b"")] * SIGNATURES_MAX
    assert (
        verified_keyids(authority(server).roles.get("halt"), b"m", many + signed(seed(6)))
        == frozenset()
    )


# --- repository ---------------------------------------------------------------------------------


def test_a_brake_role_never_matches_a_release(server: Server) -> None:
    roles = delegated(server.targets.signed).roles
    matching = [name for name, role in roles.items() if role.is_delegated_path("releases/shop/1")]
    assert matching == [MAIN]
    assert not any(role.terminating for role in roles.values())


def test_a_published_version_is_never_replaced(server: Server) -> None:
    with pytest.raises(Malformed, match="published"):
        server.release("releases/shop/1.0")


def test_a_rotated_root_is_signed_by_old_and_new_keys(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    new = RoleSeeds((seed(21), seed(22)), 2)
    server.root = repository.rotate_root(
        server.root, "root", new, signers=ROOT.seeds, expires=LATER
    )
    server.targets = signed_by(Metadata(server.targets.signed), new.seeds)
    server.targets.signed.version += 1
    server.targets.signatures.clear()
    signed_by(server.targets, new.seeds)
    server.publish()
    client.refresh()
    assert client.authority(NOW).targets_version == 2
    with pytest.raises(Untrusted):
        client.refresh_authority(1)
    assert set(server.root.signed.roles["root"].keyids) == {key_of(s).keyid for s in new.seeds}


def test_a_root_rotation_without_the_old_threshold_is_refused(server: Server) -> None:
    new = RoleSeeds((seed(21),), 1)
    with pytest.raises(Untrusted):
        repository.rotate_root(server.root, "root", new, signers=[seed(1)], expires=LATER)


def test_a_rotated_timestamp_key_replaces_the_old_one(server: Server) -> None:
    new = RoleSeeds((seed(23),), 1)
    root = repository.rotate_root(server.root, "timestamp", new, signers=ROOT.seeds, expires=LATER)
    assert root.signed.version == 2
    assert root.signed.roles["timestamp"].keyids == [key_of(seed(23)).keyid]
    assert key_of(TIMESTAMP).keyid not in root.signed.keys
    assert server.root.signed.version == 1


def test_targets_keys_turn_only_with_roots(server: Server) -> None:
    with pytest.raises(Malformed, match="role"):
        repository.rotate_root(
            server.root, "targets", ROLES["halt"], signers=ROOT.seeds, expires=LATER
        )


@pytest.mark.parametrize(
    "new", [RoleSeeds((seed(1),), 0), RoleSeeds((seed(1),), 2), RoleSeeds((seed(1), seed(1)), 2)]
)
def test_a_rotation_to_an_unusable_threshold_is_refused(server: Server, new: RoleSeeds) -> None:
    with pytest.raises(Malformed, match="threshold"):
        repository.rotate_root(server.root, "root", new, signers=ROOT.seeds, expires=LATER)
    with pytest.raises(Malformed, match="threshold"):
        repository.rotate_delegation(server.targets, "halt", new, signers=ROOT.seeds, expires=LATER)


def test_a_rotated_halt_key_replaces_the_stolen_one(server: Server) -> None:
    new = RoleSeeds((seed(24),), 1)
    server.targets = repository.rotate_delegation(
        server.targets, "halt", new, signers=ROOT.seeds, expires=LATER
    )
    assert set(authority(server).roles["halt"].keys) == {key_of(seed(24)).keyid}


def test_an_unknown_delegation_is_not_rotated(server: Server) -> None:
    with pytest.raises(Malformed, match="delegated"):
        repository.rotate_delegation(
            server.targets, "ban", ROLES["halt"], signers=ROOT.seeds, expires=LATER
        )


# --- client -------------------------------------------------------------------------------------


def test_a_refreshed_client_lists_verified_releases(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    (entry,) = client.releases()
    assert (entry.product, entry.version, entry.length) == ("shop", "1.0", 29)
    assert (entry.counter, entry.content, entry.handler) == (1, b"\xcc" * 32, "files")
    assert client.timestamp_version() == 1
    assert client.authority(NOW).roles == authority(server).roles


def test_an_authority_is_read_without_asking_anybody(server: Server, tmp_path: Path) -> None:
    server.client(tmp_path).refresh()
    server.asked.clear()
    assert server.client(tmp_path).authority(NOW).is_fresh
    assert server.asked == []


def test_a_new_client_has_no_authority(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        server.client(tmp_path).authority(NOW)


def test_a_publisher_whose_role_was_taken_away_lists_nothing(tmp_path: Path) -> None:
    server = Server(ROLES | {"releases/other": RoleSeeds((seed(30),), 1)})
    server.release("releases/shop/1.0")
    server.release("releases/evil/1.0", "releases/other")
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert {entry.product for entry in client.releases()} == {"shop", "evil"}
    server.delegate(lambda signed: delegated(signed).roles.pop("releases/other"))
    server.publish()
    client.refresh()
    assert {entry.product for entry in client.releases()} == {"shop"}


def test_the_first_delegated_publisher_has_the_word_on_a_release(tmp_path: Path) -> None:
    server = Server(ROLES | {"releases/other": RoleSeeds((seed(30),), 1)})
    server.release("releases/shop/1.0")
    server.release("releases/shop/1.0", "releases/other", FACTS | {"content": "d" * 64})
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert [entry.content for entry in client.releases()] == [b"\xcc" * 32]


def test_releases_signed_by_another_key_are_refused(server: Server, tmp_path: Path) -> None:
    server.lists[MAIN].sign(NaclSigner(seed(6)))
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert client.releases() == []
    assert set(client.wanting) == {MAIN}


def test_a_publisher_whose_list_is_out_of_date_hides_nobody_else(tmp_path: Path) -> None:
    server = Server(ROLES | {"releases/other": RoleSeeds((seed(30),), 1)})
    server.release("releases/shop/1.0")
    server.release("releases/till/1.0", "releases/other")
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert {entry.product for entry in client.releases()} == {"shop", "till"}
    # A list that ends is not an open door: its names stay its own.
    server.release("releases/shop/1.0", "releases/other", FACTS | {"content": "d" * 64})
    server.lists[MAIN].signed.expires = PAST
    server.lists[MAIN].signed.version += 1
    server.lists[MAIN].signatures.clear()
    signed_by(server.lists[MAIN], ROLES[MAIN].seeds)
    server.publish()
    client.refresh()
    assert {entry.product for entry in client.releases()} == {"till"}
    assert set(client.unlisted) == {MAIN}


def test_a_kept_file_of_another_type_is_refused(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    (tmp_path / "targets.json").write_bytes(server.files["1.root.json"])
    with pytest.raises(Malformed, match="type targets"):
        client.releases()


def test_a_missing_list_of_releases_is_wanting_and_the_one_before_it_counts(
    server: Server, tmp_path: Path
) -> None:
    server.release("releases/shop/1.5")
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    before = client.releases()
    assert before
    assert not client.wanting
    server.release("releases/shop/2.0")
    server.publish()
    missing = max(name for name in server.files if "releases%2Fmain" in name)
    del server.files[missing]
    client.refresh()
    assert client.releases() == before
    assert set(client.wanting) == {MAIN}


def test_a_publisher_with_other_paths_is_refused(server: Server, tmp_path: Path) -> None:
    server.delegate(lambda signed: setattr(delegated(signed).roles[MAIN], "paths", ["a/*"]))
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert client.releases() == []
    assert "releases/*/*" in client.unlisted[MAIN]


@pytest.mark.parametrize(
    ("path", "custom"),
    [
        ("releases/shop", None),
        ("other/shop/1.0", None),
        ("releases/../1.0", None),
        ("releases/shop/-1", None),
        ("releases/shop/2.0", FACTS | {"content": "short"}),
        ("releases/shop/2.0", FACTS | {"counter": "nine"}),
        ("releases/shop/2.0", FACTS | {"counter": 0}),
        ("releases/shop/2.0", FACTS | {"unknown": 1}),
        ("releases/shop/2.0", {}),
        ("releases/shop/2.0", [1]),
    ],
)
def test_a_list_with_an_odd_release_lists_its_others(
    server: Server, tmp_path: Path, path: str, custom: Any
) -> None:
    server.release("releases/shop/1.5")
    server.release(path, custom=custom)
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert "1.5" in [entry.version for entry in client.releases()]
    assert path.removeprefix("releases/shop/") not in [each.version for each in client.releases()]
    assert not client.unlisted


def test_a_release_without_sha256_is_not_listed(server: Server, tmp_path: Path) -> None:
    server.lists[MAIN].signed.targets["releases/shop/1.0"].hashes = {"sha512": "0" * 128}
    server.lists[MAIN].sign(NaclSigner(seed(5)))
    server.publish()
    client = server.client(tmp_path)
    client.refresh()
    assert client.releases() == []


def test_an_unreachable_repository_is_unavailable(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    del server.files["timestamp.json"]
    with pytest.raises(Unavailable):
        client.refresh()


def test_an_expired_timestamp_is_refused(server: Server, tmp_path: Path) -> None:
    server.publish(expires=PAST)
    with pytest.raises(Untrusted, match="expired"):
        server.client(tmp_path).refresh()


def test_a_wrong_clock_does_not_deafen_a_node_to_halts(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    server.publish(expires=PAST)
    with pytest.raises(Untrusted):
        client.refresh()
    client.refresh_authority(1)
    found = client.authority(NOW)
    assert set(found.roles) == set(ROLES)
    assert not found.is_fresh


def test_keys_without_dates_give_way_to_keys_with_dates(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    with pytest.raises(FiredoorError):
        client.authority(NOW)
    server.client(tmp_path).refresh()
    client.refresh_authority(1)
    assert client.authority(NOW).is_fresh


def test_keys_that_a_turned_root_disowns_do_not_hide_the_newer_ones(
    server: Server, tmp_path: Path
) -> None:
    client = server.client(tmp_path)
    client.refresh()
    client.refresh_authority(1)
    new = RoleSeeds((seed(21),), 1)
    server.root = repository.rotate_root(
        server.root, "root", new, signers=ROOT.seeds, expires=LATER
    )
    server.targets.signed.version += 1
    server.targets.signatures.clear()
    signed_by(server.targets, new.seeds)
    server.publish()
    client.refresh()
    assert client.authority(NOW).is_fresh
    (tmp_path / "targets.json").write_bytes(server.files["1.targets.json"])
    with pytest.raises(Untrusted):
        client.authority(NOW)


def test_a_root_of_another_fleet_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match="fleet"):
        TrustClient(tmp_path, FLEET, server.fetch, server.files["1.root.json"])


def test_a_disk_that_refuses_is_unavailable(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    (tmp_path / "root_history").write_bytes(b"")
    with pytest.raises(Unavailable):
        client.refresh()


def test_a_target_is_fetched_once_and_verified(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    body = b"manifest of releases/shop/1.0"
    (target,) = server.lists[MAIN].signed.targets.values()
    url = f"https://files.invalid/{target.get_prefixed_paths()[0]}"
    server.files[url] = b"x" + body[1:]
    with pytest.raises(Untrusted):
        client.download("releases/shop/1.0", tmp_path, "https://files.invalid/")
    server.files[url] = body
    path = client.download("releases/shop/1.0", tmp_path, "https://files.invalid/")
    assert path.read_bytes() == body
    del server.files[url]
    assert client.download("releases/shop/1.0", tmp_path, "https://files.invalid/") == path
    with pytest.raises(Unavailable):
        client.download("releases/shop/2.0", tmp_path, "https://files.invalid/")


def test_older_keys_never_replace_newer_ones(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    server.delegate(lambda signed: None)
    server.publish()
    client.refresh()
    with pytest.raises(Stale):
        client.refresh_authority(1)


def test_a_targets_file_of_another_version_is_refused(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    server.files["9.targets.json"] = server.files["1.targets.json"]
    with pytest.raises(Untrusted, match="version 9"):
        client.refresh_authority(9)


def test_keys_that_root_did_not_sign_are_refused(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    server.delegate(lambda signed: None)
    server.targets.sign(NaclSigner(seed(6)))
    server.publish()
    with pytest.raises(Untrusted):
        client.refresh_authority(2)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]"])
def test_no_metadata_at_all_is_refused(server: Server, tmp_path: Path, data: bytes) -> None:
    client = server.client(tmp_path)
    client.refresh()
    server.files["2.targets.json"] = data
    with pytest.raises(Malformed):
        client.refresh_authority(2)


def test_a_root_file_in_place_of_keys_is_refused(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    server.files["2.targets.json"] = server.files["1.root.json"]
    with pytest.raises(Malformed, match="type targets"):
        client.refresh_authority(2)


def test_keys_that_nobody_has_are_unavailable(server: Server, tmp_path: Path) -> None:
    client = server.client(tmp_path)
    client.refresh()
    with pytest.raises(Unavailable):
        client.refresh_authority(7)


def test_a_fleet_id_is_the_digest_of_its_first_root(server: Server) -> None:
    assert len(fleet_of(server.files["1.root.json"])) == 32


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", json.dumps({"signed": {"version": 2}}).encode()]
)
def test_no_first_root_is_no_fleet(data: bytes) -> None:
    with pytest.raises(Malformed):
        fleet_of(data)

"""What the origin takes in, what it refuses, and what a crash between two writes leaves."""

import asyncio
import base64
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tuf.api.metadata import Metadata, TargetFile, Targets, Timestamp

import mirror.origin.release_lists
import mirror.origin.repository
from firedoor.cli.fleet.keys import renew_authority_certificate
from firedoor.errors import (
    FiredoorError,
    Malformed,
    Refused,
    Stale,
    TooLarge,
    Unavailable,
    Untrusted,
)
from firedoor.halt.order import read_beacon
from firedoor.identity import RING_DEFAULT, FleetId, Peer, PeerId, Role
from firedoor.pieces.chunking import pack_piece
from firedoor.pieces.manifest import (
    encode_manifest,
    manifest_id,
)
from firedoor.pieces.manifest_reading import Bound
from firedoor.runtime.files import durable_write
from firedoor.runtime.keys.authority import has_identifiers, id_of_request, issue, make_request
from firedoor.runtime.keys.key_files import read_key_file, replace_certificate, write_key_file
from firedoor.runtime.keys.tls import peer_of_certificate
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.repository import signed_by
from firedoor.units import UnixTime
from mirror.origin.enrolments import TOKEN_SPAN_MAX_S, Enrolments, Grant
from mirror.origin.origin import Origin, renew_origin
from mirror.origin.repository import SNAPSHOT_SPAN_S, TIMESTAMP_SPAN_S
from tests.unit.origin_bench import NOW, ROLE, Bench, release

AGENT = Peer(PeerId("a" * 32), Role.AGENT, "branch")
OPERATOR = Peer(PeerId("b" * 32), Role.OPERATOR, "headquarters")


# --- releases --------------------------------------------------------------------------------


def test_an_accepted_release_is_what_an_endpoint_then_believes(
    bench: Bench, tmp_path: Path
) -> None:
    manifest = release(bench.store)
    done = bench.publish(manifest)
    client = bench.client(tmp_path / "client")
    client.refresh()
    (entry,) = client.releases()
    assert (entry.product, entry.version, entry.manifest) == ("app", "1.0", done.manifest)
    path = f"/v1/targets/releases/app/{done.manifest}.1.0"
    assert asyncio.run(bench.origin.get(path, 1 << 20)) == encode_manifest(manifest)


def test_releases_are_accepted_one_after_the_other(bench: Bench, tmp_path: Path) -> None:
    bench.publish(release(bench.store))
    bench.publish(release(bench.store, "1.1", b"other"))
    client = bench.client(tmp_path / "client")
    client.refresh()
    assert [entry.version for entry in client.releases()] == ["1.0", "1.1"]


def test_a_release_whose_pieces_are_not_here_is_refused(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="1 piece"):
        bench.publish(release(None))
    assert bench.releases().signed.version == 1


def test_missing_names_each_lacking_piece_once(bench: Bench) -> None:
    piece, stored = pack_piece(b"here")
    bench.store.put(piece.digest, stored)
    other = bytes(32)
    assert bench.origin.missing([other, piece.digest, other]) == [other]


def test_metadata_that_another_key_signed_is_refused(bench: Bench) -> None:
    with pytest.raises(Untrusted, match="signature"):
        bench.publish(release(bench.store), seed=bench.seed("halt-1"))


@pytest.mark.parametrize("versions", [-1, 1])
def test_metadata_of_another_version_than_the_next_is_refused(bench: Bench, versions: int) -> None:
    with pytest.raises(Stale):
        bench.publish(release(bench.store), versions=versions)


def test_metadata_past_its_date_is_refused(bench: Bench) -> None:
    with pytest.raises(Untrusted, match="date"):
        bench.publish(release(bench.store), days=-1)


@pytest.mark.parametrize("role", ["halt", "releases/other", "targets", ""])
def test_a_role_that_is_no_publisher_is_refused(bench: Bench, role: str) -> None:
    with pytest.raises(Untrusted, match="role"):
        bench.publish(release(bench.store), role=role)


def test_an_existing_version_with_another_manifest_is_refused(bench: Bench) -> None:
    bench.publish(release(bench.store))
    other = encode_manifest(release(bench.store, raw=b"other"))
    releases = bench.releases()
    target = releases.signed.targets["releases/app/1.0"]
    target.hashes = {"sha256": manifest_id(other)}
    releases.signed.version += 1
    releases.signatures.clear()
    data = signed_by(releases, [bench.seed()]).to_bytes()
    with pytest.raises(Malformed, match="as it is"):
        bench.origin.accept_release(ROLE, data, other)


def test_a_list_that_drops_a_release_is_refused(bench: Bench) -> None:
    bench.publish(release(bench.store))
    new = release(bench.store, "1.1", b"other")
    data = encode_manifest(new)
    releases = Metadata[Targets].from_bytes(bench.metadata(new, data))
    del releases.signed.targets["releases/app/1.0"]
    releases.signatures.clear()
    metadata = signed_by(releases, [bench.seed()]).to_bytes()
    with pytest.raises(Malformed, match="as it is"):
        bench.origin.accept_release(ROLE, metadata, data)


def test_a_list_with_two_new_releases_is_refused(bench: Bench) -> None:
    manifest = release(bench.store)
    data = encode_manifest(manifest)
    releases = Metadata[Targets].from_bytes(bench.metadata(manifest, data))
    more = TargetFile(1, {"sha256": "0" * 64}, "releases/app/9")
    releases.signed.targets[more.path] = more
    releases.signatures.clear()
    metadata = signed_by(releases, [bench.seed()]).to_bytes()
    with pytest.raises(Malformed, match="one new release"):
        bench.origin.accept_release(ROLE, metadata, data)


def test_a_manifest_other_than_the_signed_one_is_refused(bench: Bench) -> None:
    manifest = release(bench.store)
    metadata = bench.metadata(manifest, encode_manifest(manifest))
    other = encode_manifest(replace(manifest, is_critical_fix=True))
    with pytest.raises(Untrusted, match="manifest"):
        bench.origin.accept_release(ROLE, metadata, other)


@pytest.mark.parametrize(
    "custom",
    [{"counter": 7}, {"content": "00" * 32}, {"handler": "x"}, {"critical_fix": True}, {"more": 1}],
)
def test_facts_that_the_manifest_does_not_bear_out_are_refused(
    bench: Bench, custom: dict[str, object]
) -> None:
    with pytest.raises(Malformed, match="facts"):
        bench.publish(release(bench.store), custom=custom)


def test_a_path_that_does_not_name_the_manifests_release_is_refused(bench: Bench) -> None:
    with pytest.raises(Malformed, match="path"):
        bench.publish(release(bench.store), path="releases/app/9.9")


def test_a_path_outside_the_publishers_is_refused(bench: Bench) -> None:
    with pytest.raises(Untrusted, match="path"):
        bench.publish(release(bench.store), path="halt/app")


def test_a_product_named_everything_is_refused(bench: Bench) -> None:
    with pytest.raises(Malformed, match="product"):
        bench.publish(replace(release(bench.store), product="everything"))


def test_bytes_that_are_no_metadata_are_refused(bench: Bench) -> None:
    snapshot = (bench.fleet / "origin/metadata/1.snapshot.json").read_bytes()
    for junk in (b"", b"{}", b"\xff", snapshot):
        with pytest.raises(Malformed):
            bench.origin.accept_release(ROLE, junk, b"")


def test_oversized_input_is_refused_before_it_is_parsed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror.origin.release_lists, "METADATA_BYTES_MAX", 10)
    with pytest.raises(TooLarge):
        bench.origin.accept_release(ROLE, bytes(11), b"")
    bench.origin.bound = Bound(10, 10)
    with pytest.raises(TooLarge):
        bench.origin.accept_release(ROLE, b"", bytes(11))


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_between_two_writes_leaves_the_old_repository(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    bench.publish(release(bench.store))
    real = durable_write
    left = [writes]

    def crash(path: Path, data: bytes, mode: int = 0o644) -> None:
        if not left[0]:
            raise Unavailable(str(path), why="killed")
        left[0] -= 1
        real(path, data, mode)

    monkeypatch.setattr(mirror.origin.repository, "durable_write", crash)
    with pytest.raises(Unavailable, match="killed"):
        bench.publish(release(bench.store, "1.1", b"other"))
    monkeypatch.setattr(mirror.origin.repository, "durable_write", real)
    client = bench.client(tmp_path / "client")
    client.refresh()
    assert [entry.version for entry in client.releases()] == ["1.0"]
    # The same release may be handed in again, and one with other bytes in its place as well.
    bench.publish(release(bench.store, "1.1", b"third"))
    client.refresh()
    assert [entry.version for entry in client.releases()] == ["1.0", "1.1"]


# --- freshness, files and beacons ------------------------------------------------------------


def test_a_fresh_timestamp_is_left_alone(bench: Bench) -> None:
    assert not bench.origin.resign_timestamp()


@pytest.mark.parametrize("span_s", [TIMESTAMP_SPAN_S, SNAPSHOT_SPAN_S])
def test_what_is_past_half_its_life_is_signed_anew(bench: Bench, span_s: int) -> None:
    bench.now = UnixTime(NOW + span_s // 2 + 60)
    assert bench.origin.resign_timestamp()
    folder = bench.fleet / "origin" / "metadata"
    timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed
    assert timestamp.version == 2
    assert timestamp.expires.timestamp() == bench.now + TIMESTAMP_SPAN_S
    assert not bench.origin.resign_timestamp()


def test_signing_anew_keeps_an_endpoints_trust(bench: Bench, tmp_path: Path) -> None:
    client = bench.client(tmp_path / "client")
    client.refresh()
    bench.now = UnixTime(NOW + SNAPSHOT_SPAN_S - 60)
    bench.origin.resign_timestamp()
    client.refresh()
    assert client.timestamp_version() == 2


@pytest.mark.parametrize(
    "path",
    [
        "/v1/metadata/9.root.json",
        "/v1/metadata/../ca.key",
        "/v1/metadata/.new-1",
        "/v1/metadata/a\\b",
        "/v1/metadata/a\0b",
        "/v1/targets/releases/app/" + "0" * 64 + ".1.0",
        "/v1/targets/../../ca.key",
        "/v1/else",
    ],
)
def test_no_other_file_can_be_read(bench: Bench, path: str) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(bench.origin.get(path, 1 << 20))


def test_a_file_above_the_askers_limit_is_not_sent(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="above"):
        asyncio.run(bench.origin.get("/v1/metadata/1.root.json", 10))


def test_a_manifest_that_rotted_on_the_disk_is_not_sent(bench: Bench) -> None:
    done = bench.publish(release(bench.store))
    (bench.fleet / "origin" / "targets" / done.manifest).write_bytes(b"rot")
    with pytest.raises(Untrusted):
        asyncio.run(bench.origin.get(f"/v1/targets/releases/app/{done.manifest}.1.0", 1 << 20))


def test_a_token_puts_a_machine_into_its_ring_for_good(bench: Bench) -> None:
    request = make_request(b"\7" * 32)
    answer = enrol(bench, bench.origin.issue_token(Role.AGENT, "branch", 60, "canary"), request)
    assert peer_of_certificate(answer["certificate"].encode(), NOW).ring == "canary"
    asker = Peer(id_of_request(request), Role.AGENT, "branch")
    renewed = asyncio.run(bench.origin.renew(request, asker))
    assert peer_of_certificate(renewed, NOW).ring == "canary"


def test_enrolments_of_before_there_were_rings_are_in_the_broad_one(tmp_path: Path) -> None:
    path = tmp_path / "origin.sqlite"
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(
            "CREATE TABLE tokens (digest TEXT PRIMARY KEY, role TEXT NOT NULL, site TEXT NOT NULL,"
            " until INTEGER NOT NULL, used_by TEXT) STRICT"
        )
        base.execute(
            "CREATE TABLE peers (id TEXT PRIMARY KEY, role TEXT NOT NULL, site TEXT NOT NULL,"
            " enrolled_at INTEGER NOT NULL, renewed_at INTEGER NOT NULL) STRICT"
        )
        base.execute("INSERT INTO peers VALUES ('a', 'agent', 'branch', 1, 1)")
    for _ in range(2):
        with closing(Enrolments(path)) as enrolments:
            assert enrolments.renew(PeerId("a"), NOW) == Grant(Role.AGENT, "branch", RING_DEFAULT)
            secret = enrolments.issue(Role.AGENT, "branch", span_s=60, now=NOW, ring="canary")
            assert enrolments.redeem(secret, PeerId("b"), NOW).ring == "canary"


def test_a_beacon_names_what_is_recorded(bench: Bench, tmp_path: Path) -> None:
    client = bench.client(tmp_path / "client")
    client.refresh()
    ids = (bytes(32), b"\1" * 32)
    assert read_beacon(bench.origin.signer.beacon(ids), client.authority(NOW))[0] == frozenset(ids)


# --- enrolment -------------------------------------------------------------------------------


def enrol(bench: Bench, secret: str, request: bytes) -> dict[str, str]:
    body = json.dumps({"secret": secret, "request": request.decode()}).encode()
    answer: dict[str, str] = json.loads(asyncio.run(bench.origin.enrol(body)))
    return answer


def test_a_token_enrols_a_peer_with_the_role_and_site_it_was_made_for(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    request = make_request(b"\7" * 32)
    answer = enrol(bench, secret, request)
    peer = peer_of_certificate(answer["certificate"].encode(), bench.now)
    assert (peer.id, peer.role, peer.site) == (id_of_request(request), Role.AGENT, "branch")
    assert (answer["id"], answer["role"], answer["site"]) == (peer.id, "agent", "branch")
    assert answer["ca"].encode() == (bench.fleet / "origin" / "ca.pem").read_bytes()
    root = base64.b64decode(answer["root"])
    assert fleet_of(root) == FleetId(json.loads((bench.fleet / "fleet.json").read_text())["fleet"])


def test_a_token_enrols_one_key_only(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    enrol(bench, secret, make_request(b"\1" * 32))
    with pytest.raises(Untrusted, match="token"):
        enrol(bench, secret, make_request(b"\2" * 32))


def test_the_same_key_may_ask_again_after_a_lost_answer(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    request = make_request(b"\1" * 32)
    assert enrol(bench, secret, request)["id"] == enrol(bench, secret, request)["id"]


def test_a_token_past_its_time_is_refused(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    bench.now = UnixTime(NOW + 60)
    with pytest.raises(Untrusted, match="token"):
        enrol(bench, secret, make_request(b"\1" * 32))


def test_a_broken_request_does_not_use_up_the_token(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    with pytest.raises(Malformed):
        enrol(bench, secret, b"no request")
    enrol(bench, secret, make_request(b"\1" * 32))


def test_tokens_and_peers_outlive_the_process(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    bench.origin.close()
    bench.origin = Origin(
        bench.fleet / "origin", bench.state, store=bench.store, passphrase=str, unix=lambda: NOW
    )
    enrol(bench, secret, make_request(b"\1" * 32))


def test_secrets_are_not_in_the_state(bench: Bench) -> None:
    secret = bench.origin.issue_token(Role.AGENT, "branch", 60)
    bench.origin.close()
    kept = b"".join(path.read_bytes() for path in bench.state.glob("origin.sqlite*"))
    assert kept
    assert secret.encode() not in kept


def test_a_renewal_keeps_role_and_site(bench: Bench) -> None:
    request = make_request(b"\1" * 32)
    enrol(bench, bench.origin.issue_token(Role.MIRROR, "branch", 60), request)
    bench.now = UnixTime(NOW + 30 * 86400)
    peer = peer_of_certificate(asyncio.run(bench.origin.renew(request, AGENT)), bench.now)
    assert (peer.role, peer.site, peer.is_current) == (Role.MIRROR, "branch", True)


def test_an_operator_renews_by_the_certificate_that_it_has(bench: Bench) -> None:
    request = make_request(b"\2" * 32)
    asker = replace(OPERATOR, id=id_of_request(request))
    peer = peer_of_certificate(asyncio.run(bench.origin.renew(request, asker)), NOW)
    assert (peer.role, peer.site) == (Role.OPERATOR, "headquarters")


def test_an_operator_who_carries_a_request_makes_no_operator_of_it(bench: Bench) -> None:
    request = make_request(b"\2" * 32)
    with pytest.raises(Untrusted, match="enrolled peer"):
        asyncio.run(bench.origin.renew(request, OPERATOR))
    token = bench.origin.issue_token(Role.AGENT, "branch", 60)
    enrol(bench, token, request)
    peer = peer_of_certificate(asyncio.run(bench.origin.renew(request, OPERATOR)), NOW)
    assert (peer.role, peer.site) == (Role.AGENT, "branch")


def test_a_renewal_puts_back_whom_a_restored_origin_has_forgotten(bench: Bench) -> None:
    request, ca = make_request(b"\2" * 32), (bench.fleet / "origin" / "ca.pem").read_bytes()

    def shown(role: Role, seed: bytes = b"\2" * 32, by: bytes = b"") -> bytes:
        ca_seed = by or read_key_file(bench.fleet / "origin" / "ca.key", str).signing_seed
        pem = issue(
            make_request(seed), ca_pem=ca, ca_seed=ca_seed, role=role, site="hangar", now=NOW,
            ring="early",
        )  # fmt: skip
        certificate = x509.load_pem_x509_certificate(pem)
        return certificate.public_bytes(serialization.Encoding.DER)

    of_another, forged = shown(Role.AGENT, b"\3" * 32), shown(Role.AGENT, by=b"\5" * 32)
    for lie in (b"", b"junk", of_another, forged, shown(Role.OPERATOR)):
        with pytest.raises(Untrusted, match="enrolled peer"):
            asyncio.run(bench.origin.renew(request, AGENT, lie))
    certificate = asyncio.run(bench.origin.renew(request, AGENT, shown(Role.AGENT)))
    peer = peer_of_certificate(certificate, NOW)
    assert (peer.role, peer.site, peer.ring) == (Role.AGENT, "hangar", "early")
    assert [each.id for each in bench.origin.enrolled()] == [peer.id]


def test_the_origin_renews_its_own_certificate_at_half_its_life(bench: Bench) -> None:
    path = bench.fleet / "origin" / "identity.key"
    before = read_key_file(path, str)
    renew_origin(bench.fleet / "origin", str, UnixTime(NOW + 100 * 86400))
    assert read_key_file(path, str) == before
    later = UnixTime(NOW + 200 * 86400)
    renew_origin(bench.fleet / "origin", str, later)
    after = read_key_file(path, str)
    peer = peer_of_certificate(after.certificate.encode(), UnixTime(NOW + 500 * 86400))
    assert (peer.id, peer.role, peer.is_current) == (
        peer_of_certificate(before.certificate.encode(), NOW).id,
        Role.MIRROR,
        True,
    )
    assert after.secret == before.secret


def test_the_origin_replaces_a_certificate_without_identifiers_at_once(bench: Bench) -> None:
    path = bench.fleet / "origin" / "identity.key"
    vectors = Path(__file__).parents[3] / "vectors" / "certificates_0_1.json"
    old = "\n".join(json.loads(vectors.read_text("utf-8"))["mirror"])
    replace_certificate(path, old)
    renew_origin(bench.fleet / "origin", str, NOW)
    assert has_identifiers(read_key_file(path, str).certificate.encode())


def test_a_ca_certificate_is_made_again_on_the_origins_disk(bench: Bench) -> None:
    origin, operator = bench.fleet / "origin", bench.fleet / "keys" / "operator.key"
    before = (origin / "ca.pem").read_bytes()
    renew_authority_certificate(origin, [operator], None)
    after = (origin / "ca.pem").read_bytes()
    assert after != before
    assert read_key_file(operator, str).ca.encode() == after
    stranger = operator.with_name("stranger.key")
    write_key_file(stranger, replace(read_key_file(operator, str), fleet="f" * 32), None)
    with pytest.raises(Malformed, match="another fleet's"):
        renew_authority_certificate(origin, [stranger], None)
    assert (origin / "ca.pem").read_bytes() == after


def test_a_key_that_never_enrolled_cannot_renew(bench: Bench) -> None:
    with pytest.raises(Untrusted, match="enrolled"):
        asyncio.run(bench.origin.renew(make_request(b"\1" * 32), AGENT))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"secret": 1, "request": ""}', b"\xff"])
def test_an_enrolment_of_another_form_is_refused(bench: Bench, body: bytes) -> None:
    with pytest.raises(Malformed):
        asyncio.run(bench.origin.enrol(body))


@pytest.mark.parametrize(
    ("role", "site", "span_s"),
    [
        (Role.OPERATOR, "branch", 60),
        (Role.AGENT, "a;role=mirror", 60),
        (Role.AGENT, "branch", 0),
        (Role.AGENT, "branch", TOKEN_SPAN_MAX_S + 1),
    ],
)
def test_a_token_that_should_not_be_is_not_made(
    bench: Bench, role: Role, site: str, span_s: int
) -> None:
    with pytest.raises(Refused):
        bench.origin.issue_token(role, site, span_s)


def test_open_tokens_are_bounded_and_expired_ones_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.origin.enrolments.TOKENS_OPEN_MAX", 2)
    enrolments = Enrolments(tmp_path / "origin.sqlite")
    for _ in range(2):
        enrolments.issue(Role.AGENT, "branch", span_s=60, now=NOW)
    with pytest.raises(TooLarge):
        enrolments.issue(Role.AGENT, "branch", span_s=60, now=NOW)
    secret = enrolments.issue(Role.AGENT, "branch", span_s=60, now=UnixTime(NOW + 60))
    assert enrolments.redeem(secret, PeerId("0" * 32), UnixTime(NOW + 61)).site == "branch"
    enrolments.close()


def test_a_state_folder_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FiredoorError, match="sqlite"):
        Enrolments(tmp_path / "nowhere" / "origin.sqlite")

"""What a witness signs, and what it does not; and when an order is logged."""

from dataclasses import replace
from pathlib import Path

import pytest

from firedoor.countersigning import Countersigning, is_short, makes_leases_alone, vouches
from firedoor.effects import AddSignature, Send
from firedoor.errors import Malformed, Untrusted
from firedoor.halt.envelope import countersigned, joined, seal
from firedoor.halt.lease import LeasePayload, read_lease
from firedoor.halt.merkle import root_of
from firedoor.halt.order import BeaconPayload
from firedoor.halt.orderset import OrderSet
from firedoor.halt.sync import OrderSync
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.runtime.key_files import KeyFile, write_key_file
from firedoor.session import Session
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.wire.messages import Countersign
from mirror.beacons import BEACON_KEY, own_signer

FLEET = FleetId("0a" * 16)
ORIGIN, WITNESS, STRANGER = (bytes([number]) * 32 for number in (1, 2, 3))
A, B = b"a" * 32, b"b" * 32


def authority(threshold: int, *seeds: bytes) -> Authority:
    keys = [key_of(seed) for seed in seeds]
    role = RoleKeys(threshold, {key.keyid: bytes.fromhex(key.keyval["public"]) for key in keys})
    return Authority(FLEET, 4, {"beacon": role}, is_fresh=True, root_version=2, snapshot_version=7)


BOTH = authority(2, ORIGIN, WITNESS)
EACH = authority(1, ORIGIN, WITNESS)


def by(seed: bytes) -> dict[str, bytes]:
    return {key_of(seed).keyid: seed}


def a_lease(*ids: bytes, seed: bytes = ORIGIN, root: int = 2, targets: int = 4) -> bytes:
    payload = LeasePayload(1, root, targets, 7, len(ids), root_of(ids), b"n" * 32)
    return seal("lease", payload, fleet=FLEET, keys=by(seed))[1]


def a_beacon(*ids: bytes, seed: bytes = ORIGIN) -> bytes:
    return seal("beacon", BeaconPayload(1, ids), fleet=FLEET, keys=by(seed))[1]


def a_session(name: str, *, role: Role = Role.MIRROR, is_witness: bool = False) -> Session:
    peer = Peer(PeerId(name * 32), role, "branch")
    session = Session(peer, "h", is_upstream=False, sync=OrderSync(peer, bytes(32)))
    session.is_witness = is_witness
    return session


def signed(record: bytes, seed: bytes = WITNESS) -> bytes:
    return countersigned(record, fleet=FLEET, keys=by(seed))


# What a witness vouches for.


@pytest.mark.parametrize("make", [a_lease, a_beacon])
def test_a_witness_signs_over_exactly_what_it_has_recorded(make: object) -> None:
    assert callable(make)
    assert vouches(make(A, B), (A, B), BOTH)
    assert not vouches(make(A), (A, B), BOTH)
    assert not vouches(make(A, B), (A,), BOTH)


def test_a_witness_signs_for_no_stranger() -> None:
    assert not vouches(a_lease(A, seed=STRANGER), (A,), BOTH)


@pytest.mark.parametrize(("root", "targets"), [(1, 4), (2, 3)])
def test_a_witness_signs_no_lease_for_metadata_older_than_its_own(root: int, targets: int) -> None:
    assert not vouches(a_lease(A, root=root, targets=targets), (A,), BOTH)


def test_a_witness_signs_a_lease_for_metadata_newer_than_its_own() -> None:
    assert vouches(a_lease(A, targets=5), (A,), BOTH)


def test_a_witness_signs_nothing_but_leases_and_beacons() -> None:
    record = seal("certificate", BeaconPayload(1, (A,)), fleet=FLEET, keys=by(ORIGIN))[1]
    assert not vouches(record, (A,), BOTH)


def test_what_cannot_be_vouched_for_yet_waits_and_only_the_last_of_its_kind() -> None:
    witness, origin = Countersigning(is_origin=False), PeerId("0" * 32)
    for record in (a_lease(A), a_lease(A, B), a_beacon(A)):
        witness.asked(origin, record)
    assert witness.due((), BOTH) == []
    assert witness.due((A,), BOTH) == [AddSignature(origin, a_beacon(A))]
    assert witness.is_asked
    assert witness.due((A, B), BOTH) == [AddSignature(origin, a_lease(A, B))]
    assert not witness.is_asked


# The origin's side.


def test_a_record_that_lacks_keys_is_whole_once_the_witness_has_signed() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1", is_witness=True)
    lease = a_lease(A)
    assert is_short(lease, BOTH)
    assert origin.ask(lease, [a_session("2"), session]) == [
        Send(session.peer.id, Countersign(lease))
    ]
    whole = origin.answered(session, signed(lease), BOTH)
    assert whole == ("lease", joined(lease, signed(lease)))
    assert read_lease(whole[1], BOTH).count == 1
    assert origin.answered(session, signed(lease), BOTH) is None


def test_an_answer_to_an_older_record_counts_for_nothing() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1", is_witness=True)
    origin.ask(a_lease(A), [session])
    origin.ask(a_lease(A, B), [session])
    assert origin.answered(session, signed(a_lease(A)), BOTH) is None


def test_an_answer_that_no_beacon_key_has_signed_is_refused() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1", is_witness=True)
    origin.ask(a_lease(A), [session])
    with pytest.raises(Untrusted):
        origin.answered(session, signed(a_lease(A), STRANGER), BOTH)


def test_the_origins_own_signature_twice_is_not_two() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1", is_witness=True)
    origin.ask(a_lease(A), [session])
    assert origin.answered(session, a_lease(A), BOTH) is None


def test_a_witness_that_comes_is_asked_for_what_is_open() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1")
    origin.ask(a_lease(A), [])
    keyid = key_of(WITNESS).keyid
    assert origin.met(session, keyid, BOTH) == [Send(session.peer.id, Countersign(a_lease(A)))]


@pytest.mark.parametrize(
    ("role", "seed", "is_origin"),
    [
        (Role.MIRROR, STRANGER, True),
        (Role.AGENT, WITNESS, True),
        (Role.MIRROR, WITNESS, False),
    ],
)
def test_only_a_mirror_with_a_key_that_counts_is_a_witness_and_only_to_the_origin(
    role: Role, seed: bytes, *, is_origin: bool
) -> None:
    here, session = Countersigning(is_origin=is_origin), a_session("1", role=role)
    here.ask(a_lease(A), [])
    assert here.met(session, key_of(seed).keyid, BOTH) == []
    assert here.answered(session, signed(a_lease(A)), BOTH) is None


def test_a_beacon_key_works_alone_only_where_one_signature_is_enough() -> None:
    assert makes_leases_alone(key_of(WITNESS).keyid, EACH)
    assert not makes_leases_alone(key_of(WITNESS).keyid, BOTH)
    assert not makes_leases_alone(key_of(STRANGER).keyid, EACH)


# Logged.


def test_with_two_origins_an_order_is_logged_once_both_have_named_it() -> None:
    orders = OrderSet()
    orders.name(a_beacon(A), EACH)
    assert not orders.is_logged(A, EACH)
    assert orders.name(a_beacon(A, seed=WITNESS), EACH).is_key_new
    assert orders.is_logged(A, EACH)
    assert not orders.name(a_beacon(A, seed=WITNESS), EACH).is_key_new


def test_with_a_witness_an_order_is_logged_once_one_beacon_of_both_names_it() -> None:
    orders, beacon = OrderSet(), a_beacon(A)
    orders.name(joined(beacon, signed(beacon)), BOTH)
    assert orders.is_logged(A, BOTH)


def test_a_key_that_counts_no_more_has_logged_nothing() -> None:
    orders = OrderSet()
    orders.name(a_beacon(A), authority(1, ORIGIN))
    assert orders.is_logged(A, authority(1, ORIGIN))
    orders.judge(authority(1, STRANGER))
    assert not orders.is_logged(A, authority(1, STRANGER))


# The key file.


def key_file(role: str, fleet: str) -> KeyFile:
    public = key_of(WITNESS)
    secret = (WITNESS + bytes(32)).hex()
    return KeyFile(role, "beacon", fleet, public.keyid, public.keyval["public"], secret)


def test_a_mirror_without_a_beacon_key_has_no_signer(tmp_path: Path) -> None:
    assert own_signer(tmp_path, FLEET) is None


def test_a_mirrors_own_key_signs(tmp_path: Path) -> None:
    write_key_file(tmp_path / BEACON_KEY, key_file("beacon", FLEET), None)
    signer = own_signer(tmp_path, FLEET)
    assert signer is not None
    assert signer.vouch(a_lease(A)) == signed(a_lease(A))


@pytest.mark.parametrize(("role", "fleet"), [("halt", FLEET), ("beacon", "0b" * 16)])
def test_a_key_of_another_role_or_fleet_is_no_beacon_key(
    tmp_path: Path, role: str, fleet: str
) -> None:
    write_key_file(tmp_path / BEACON_KEY, key_file(role, fleet), None)
    with pytest.raises(Malformed):
        own_signer(tmp_path, FLEET)


def test_one_key_of_the_beacon_role_is_enough_for_a_certificate() -> None:
    record = seal("certificate", BeaconPayload(1, (A,)), fleet=FLEET, keys=by(ORIGIN))[1]
    assert not is_short(record, BOTH)
    assert is_short(record, replace(BOTH, roles={}))

"""What a witness signs, and what it does not; and when an order is committed."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from firedoor.effects import AddSignature, KeepVouched, Send
from firedoor.errors import Malformed, Untrusted
from firedoor.halt.envelope import Envelope, Signature, countersigned, joined, seal
from firedoor.halt.lease import LeasePayload, read_lease
from firedoor.halt.merkle import root_of
from firedoor.halt.order import BeaconPayload, HaltPayload, RevokePayload
from firedoor.halt.orderset import OrderSet
from firedoor.halt.sync import OrderSync
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.node.countersigning import Countersigning, is_short, makes_leases_alone
from firedoor.node.session import Session
from firedoor.runtime.keys.key_files import BEACON_KEY, KeyFile, write_key_file
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Countersign
from mirror.beacon_key import own_signer

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


def a_lease(
    *ids: bytes,
    seed: bytes = ORIGIN,
    root: int = 2,
    targets: int = 4,
    snapshot: int = 7,
    count: int | None = None,
) -> bytes:
    counted = len(ids) if count is None else count
    payload = LeasePayload(1, root, targets, snapshot, counted, root_of(ids), b"n" * 32)
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

HALT = sha256(b"halt").digest()
ROLES = {"halt": authority(1, HALT).roles["beacon"], **BOTH.roles}
FULL = replace(BOTH, roles=ROLES)


def a_halt(number: int) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "app==1", 4, 0, "bad")
    return seal("halt", payload, fleet=FLEET, keys=by(HALT))


class Held:
    """A witness that holds so many halts, in order of id."""

    def __init__(self, count: int) -> None:
        self.orders = OrderSet()
        for number in range(count):
            self.orders.admit(a_halt(number)[1], FULL)
        self.ids = self.orders.ids()
        self.countersigning = Countersigning(is_origin=False)

    def signs(self, record: bytes, *, recorded: tuple[bytes, ...] | None = None) -> bool:
        """Whether it signs this record at once; `recorded`: what is on its disk, if not all."""
        self.countersigning.asked(PeerId("0" * 32), record)
        here = self.ids if recorded is None else recorded
        effects = self.countersigning.due(here, self.orders, FULL)
        return any(isinstance(each, AddSignature) for each in effects)

    def has_named(self, *ids: bytes) -> "Held":
        beacon = a_beacon(*ids)
        self.orders.name(joined(beacon, signed(beacon)), FULL)
        return self


@pytest.mark.parametrize("make", [a_lease, a_beacon])
def test_a_witness_signs_over_what_it_has_recorded(make: Callable[..., bytes]) -> None:
    held = Held(2)
    held.has_named(*held.ids)
    assert not held.signs(make(*held.ids), recorded=held.ids[:1])
    assert held.signs(make(*held.ids))
    assert not held.signs(make(*held.ids, A))


@pytest.mark.parametrize("make", [a_lease, a_beacon])
def test_a_witness_signs_no_list_that_lacks_what_was_named(make: Callable[..., bytes]) -> None:
    held = Held(2)
    held.has_named(held.ids[0])
    held.has_named(*held.ids)
    assert not held.signs(make(held.ids[0]))


@pytest.mark.parametrize("make", [a_lease, a_beacon])
def test_a_witness_signs_no_list_that_lacks_what_it_has_signed_for(
    make: Callable[..., bytes],
) -> None:
    held = Held(2).has_named()
    assert held.signs(a_beacon(*held.ids))
    assert not held.signs(make())


def test_a_witness_signs_no_lease_over_what_nobody_has_named() -> None:
    held = Held(2)
    assert not held.signs(a_lease(*held.ids))
    held.countersigning.asked(PeerId("0" * 32), a_beacon(*held.ids))
    effects = held.countersigning.due(held.ids, held.orders, FULL)
    kinds = [type(each).__name__ for each in effects]
    # What it signs for is on its disk before the signatures leave.
    assert kinds == ["KeepVouched", "AddSignature", "AddSignature"]
    assert effects[0] == KeepVouched(held.ids)


def test_what_a_witness_has_signed_for_outlives_its_restart() -> None:
    again = Held(2).has_named()
    again.countersigning.restore(again.ids)
    assert not again.signs(a_beacon())
    assert not again.signs(a_lease())
    assert again.signs(a_beacon(*again.ids))


def test_what_a_thief_gave_to_the_witness_alone_stops_nothing_after_a_restart_either() -> None:
    held = Held(2).has_named()
    held.countersigning.restore(())
    assert held.signs(a_beacon(held.ids[0]))


def test_orders_that_the_origin_does_not_log_stop_no_lease() -> None:
    # A thief has given one more to the witness alone.
    held = Held(2)
    held.has_named(held.ids[0])
    assert held.signs(a_beacon(held.ids[0]))
    assert held.signs(a_lease(held.ids[0]))


def test_a_lease_over_a_list_that_is_not_known_waits_for_its_beacon() -> None:
    held = Held(3).has_named()
    assert not held.signs(a_lease(*held.ids[:2]))
    held.has_named(*held.ids[:2])
    assert held.countersigning.due(held.ids, held.orders, FULL)


def test_a_witness_signs_for_no_stranger() -> None:
    held = Held(1)
    assert not held.signs(a_lease(*held.ids, seed=STRANGER))
    assert not held.signs(a_beacon(*held.ids, seed=STRANGER))


@pytest.mark.parametrize(("root", "targets", "snapshot"), [(1, 4, 7), (2, 3, 7), (2, 4, 6)])
def test_a_witness_signs_no_lease_for_metadata_older_than_its_own(
    root: int, targets: int, snapshot: int
) -> None:
    held = Held(1)
    held.has_named(*held.ids)
    assert not held.signs(a_lease(*held.ids, root=root, targets=targets, snapshot=snapshot))


def test_a_witness_signs_a_lease_for_metadata_newer_than_its_own() -> None:
    held = Held(1)
    held.has_named(*held.ids)
    assert held.signs(a_lease(*held.ids, targets=5))


def test_a_witness_signs_no_lease_whose_count_is_another() -> None:
    held = Held(1)
    held.has_named(*held.ids)
    assert not held.signs(a_lease(*held.ids, count=2))


@pytest.mark.parametrize("kind", ["certificate", "lease", "beacon"])
def test_a_witness_keeps_nothing_that_it_cannot_read(kind: str) -> None:
    payload = RevokePayload(1, bytes(16), "0f" * 32, (), 0, "no such thing")
    record = seal(kind, payload, fleet=FLEET, keys=by(ORIGIN))[1]
    held = Held(1)
    with pytest.raises(Malformed):
        held.signs(record)
    assert not held.countersigning.is_asked


def test_what_cannot_be_vouched_for_yet_waits_and_only_the_last_of_its_kind() -> None:
    held, origin = Held(2), PeerId("0" * 32)
    witness, orders, ids = held.countersigning, held.orders, held.ids
    for record in (a_lease(A), a_lease(*ids), a_beacon(A), a_beacon(*ids)):
        witness.asked(origin, record)
    assert witness.due((), orders, FULL) == []
    assert witness.due(ids[:1], orders, FULL) == []
    assert witness.wanted(FULL) == frozenset(ids)
    assert len(witness.due(ids, orders, FULL)) == 3
    assert not witness.is_asked
    assert witness.wanted(FULL) == frozenset()


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


def test_junk_under_the_witnesss_name_does_not_keep_its_signature_out() -> None:
    origin, session = Countersigning(is_origin=True), a_session("1", is_witness=True)
    lease = a_lease(A)
    origin.ask(lease, [session])
    envelope = decode(Envelope, lease, what="lease", limit=ORDER_BYTES_MAX)
    junk = Signature(key_of(WITNESS).keyid, bytes(64))
    rest = tuple(Signature(f"{number:064x}", bytes(64)) for number in range(6))
    bent = encode(replace(envelope, signatures=(junk, *rest, *envelope.signatures)))
    assert origin.answered(session, bent, BOTH) is None
    assert origin.answered(session, signed(lease), BOTH) is not None


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


# Committed.


def test_with_two_origins_an_order_is_committed_once_both_have_named_it() -> None:
    orders = OrderSet()
    orders.name(a_beacon(A), EACH)
    assert not orders.is_committed(A, EACH)
    assert orders.name(a_beacon(A, seed=WITNESS), EACH).is_key_new
    assert orders.is_committed(A, EACH)
    assert not orders.name(a_beacon(A, seed=WITNESS), EACH).is_key_new


def test_a_beacon_is_kept_without_signatures_by_nobody() -> None:
    beacon = a_beacon(A)
    envelope = decode(Envelope, beacon, what="beacon", limit=ORDER_BYTES_MAX)
    junk = Signature("0f" * 32, bytes(64))
    bent = encode(replace(envelope, signatures=(junk, *envelope.signatures)))
    assert OrderSet().name(bent, authority(1, ORIGIN)).record == beacon


def test_with_a_witness_an_order_is_committed_once_one_beacon_of_both_names_it() -> None:
    orders, beacon = OrderSet(), a_beacon(A)
    orders.name(joined(beacon, signed(beacon)), BOTH)
    assert orders.is_committed(A, BOTH)


def test_a_key_that_counts_no_more_has_logged_nothing() -> None:
    orders = OrderSet()
    orders.name(a_beacon(A), authority(1, ORIGIN))
    assert orders.is_committed(A, authority(1, ORIGIN))
    orders.judge(authority(1, STRANGER))
    assert not orders.is_committed(A, authority(1, STRANGER))
    # Nor does what a key said before it was turned away count once it is back.
    orders.judge(authority(1, ORIGIN))
    assert not orders.is_committed(A, authority(1, ORIGIN))


def test_an_old_beacon_is_no_news_and_takes_nothing_back() -> None:
    one = authority(1, ORIGIN)
    orders = OrderSet()
    orders.name(a_beacon(A), one)
    orders.name(a_beacon(A, B), one)
    assert not orders.name(a_beacon(A), one).is_key_new
    assert orders.is_committed(B, one)


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

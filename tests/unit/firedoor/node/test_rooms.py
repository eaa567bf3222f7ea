"""How many orders are held for each key, and that no thief makes two nodes disagree for good."""

from dataclasses import replace
from hashlib import sha256

import pytest

from firedoor.dice import Dice
from firedoor.effects import AddSignature, Drop
from firedoor.errors import ShareFull
from firedoor.halt.brake import Brake
from firedoor.halt.envelope import CONTROLLER_HALT, seal
from firedoor.halt.order import BeaconPayload, Halt, HaltPayload
from firedoor.halt.orderset import Admission, OrderSet
from firedoor.halt.scope import Subject
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import UNRECORDED_PER_KEY_MAX
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.units import Instant
from firedoor.wire.messages import Beacon, CaughtUp, Countersign, Hello, Orders

FLEET = FleetId("0a" * 16)
THIEF, HONEST, LATER, BEACON = (sha256(name).digest() for name in (b"1", b"2", b"3", b"4"))
NOW = Instant(0.0)
MIRROR = Peer(PeerId("1" * 32), Role.MIRROR, "branch")


def role(*seeds: bytes) -> RoleKeys:
    keys = [key_of(seed) for seed in seeds]
    return RoleKeys(1, {key.keyid: bytes.fromhex(key.keyval["public"]) for key in keys})


AUTHORITY = Authority(
    FLEET, 1, {"halt": role(THIEF, HONEST), "beacon": role(BEACON)}, is_fresh=True
)


def halt(number: int, *seeds: bytes, level: int = 4) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "app==1", level, 0, "bad")
    return seal("halt", payload, fleet=FLEET, keys={key_of(seed).keyid: seed for seed in seeds})


def beacon(*ids: bytes) -> bytes:
    keys = {key_of(BEACON).keyid: BEACON}
    return seal("beacon", BeaconPayload(1, tuple(sorted(ids))), fleet=FLEET, keys=keys)[1]


def full_of_the_thiefs() -> OrderSet:
    orders = OrderSet()
    for number in range(UNRECORDED_PER_KEY_MAX):
        orders.admit(halt(number, THIEF)[1], AUTHORITY)
    return orders


def test_there_is_always_room_for_what_the_origin_has_logged() -> None:
    orders = full_of_the_thiefs()
    order, record = halt(1000, THIEF)
    with pytest.raises(ShareFull):
        orders.admit(record, AUTHORITY)
    orders.name(beacon(order), AUTHORITY)
    assert orders.lacks_named()
    orders.admit(record, AUTHORITY)
    assert not orders.lacks_named()


def test_a_witness_has_room_for_what_the_origin_wants_to_name() -> None:
    orders = full_of_the_thiefs()
    order, record = halt(1000, THIEF)
    assert not orders.expect([order])
    orders.admit(record, AUTHORITY)
    assert orders.expect([order])


def test_a_thiefs_signature_on_an_honest_halt_does_not_have_it_refused() -> None:
    orders = full_of_the_thiefs()
    order, record = halt(1000, HONEST, THIEF)
    _, admitted = orders.admit(record, AUTHORITY)
    assert admitted.id == order
    assert admitted.signers == admitted.keyids == {key_of(HONEST).keyid}
    assert admitted.record == halt(1000, HONEST)[1]
    # The next neighbour brings the same bytes, and they are nothing new.
    assert orders.admit(record, AUTHORITY)[0] is Admission.KNOWN


def test_a_conversation_begins_anew_once_what_it_brought_has_room() -> None:
    node = Node(NodeSettings(PeerId("2" * 32), Role.AGENT, "branch", 7443), Dice(1), NOW)
    node.trust(AUTHORITY, NOW)
    node.connected(MIRROR, host="h", is_upstream=True, now=NOW)
    records = [halt(number, THIEF) for number in range(UNRECORDED_PER_KEY_MAX + 1)]
    node.receive(Orders(tuple(record for _, record in records)), MIRROR.id, NOW)
    assert len(node.orders.ids()) == UNRECORDED_PER_KEY_MAX
    effects = node.receive(Beacon(beacon(records[-1][0])), MIRROR.id, NOW)
    assert [each.peer for each in effects if isinstance(each, Drop)] == [MIRROR.id]
    # Once: the same word said again ends nothing.
    again = node.receive(Beacon(beacon(records[-1][0])), MIRROR.id, NOW)
    assert not any(isinstance(each, Drop) for each in again)


def test_a_controllers_halt_that_was_named_once_is_missed_in_no_lease() -> None:
    watched = replace(AUTHORITY, controllers={("app", "1"): role(LATER)})
    payload = HaltPayload(1, bytes(16), "app==1", 4, 0, "bad")
    keys = {key_of(LATER).keyid: LATER}
    order, record = seal(CONTROLLER_HALT, payload, fleet=FLEET, keys=keys)
    orders = OrderSet()
    orders.admit(record, watched)
    orders.name(beacon(order), watched)
    assert orders.missed_by(()) == frozenset()
    assert orders.counted() == ()


def test_what_a_compaction_left_out_is_lacking_in_nothing_after_a_restart() -> None:
    orders, (order, _) = OrderSet(), halt(1, THIEF)
    orders.name(beacon(order), AUTHORITY)
    orders.forget_all([order])
    assert not orders.lacks_named()


def test_a_witness_syncs_anew_for_what_the_origin_wants_to_name() -> None:
    two = RoleKeys(2, role(BEACON, LATER).keys)
    both = replace(AUTHORITY, roles={**AUTHORITY.roles, "beacon": two})
    keyid = key_of(LATER).keyid
    settings = NodeSettings(PeerId("2" * 32), Role.MIRROR, "branch", 7443, beacon_key=keyid)
    node = Node(settings, Dice(1), NOW)
    node.trust(both, NOW)
    records = [halt(number, THIEF) for number in range(UNRECORDED_PER_KEY_MAX + 1)]
    wanted = records[-1]

    def meet() -> None:
        node.connected(MIRROR, host="h", is_upstream=True, now=NOW)
        node.receive(Hello(bytes(32), 7443), MIRROR.id, NOW)

    meet()
    node.receive(Orders(tuple(record for _, record in records)), MIRROR.id, NOW)
    assert node.orders.get(wanted[0]) is None
    effects = node.receive(Countersign(beacon(wanted[0])), MIRROR.id, NOW)
    assert [each.peer for each in effects if isinstance(each, Drop)] == [MIRROR.id]
    node.disconnected(MIRROR.id, NOW)
    meet()
    node.receive(Orders((wanted[1],)), MIRROR.id, NOW)
    node.recorded(wanted[0])
    effects = node.receive(Countersign(beacon(wanted[0])), MIRROR.id, NOW)
    signed = [each for each in effects if isinstance(each, AddSignature)]
    assert [each.peer for each in signed] == [MIRROR.id]


def test_a_rotation_makes_no_second_key_of_the_one_that_a_thief_had() -> None:
    old = Subject("app", "1", sha256(b"one").digest(), counter=1)
    new = Subject("app", "2", sha256(b"two").digest(), counter=2)
    orders = OrderSet()
    orders.admit(halt(1, THIEF, level=6)[1], AUTHORITY)
    turned = replace(AUTHORITY, targets_version=2, roles={**AUTHORITY.roles, "halt": role(LATER)})
    orders.judge(turned)
    orders.admit(halt(1, LATER, level=6)[1], turned)
    restarted = OrderSet()
    for record in (halt(1, THIEF, level=6)[1], halt(1, LATER, level=6)[1]):
        restarted.restore(record, turned)
    for each in (orders, restarted):
        brake = Brake()
        brake.learn(old)
        brake.learn(new)
        brake.set_halts(each.in_force())
        assert brake.level(old) == 4
        (kept,) = each.in_force()
        assert isinstance(kept, Halt)
        assert kept.keyids == {key_of(LATER).keyid}


def test_a_machine_that_was_copied_believes_nobody_that_it_had_caught_up_with() -> None:
    settings = NodeSettings(
        PeerId("2" * 32), Role.MIRROR, "branch", 7443, beacon_key=key_of(BEACON).keyid
    )
    node = Node(settings, Dice(1), NOW)
    node.trust(AUTHORITY, NOW)
    node.connected(MIRROR, host="h", is_upstream=True, now=NOW)
    node.receive(Hello(node.orders.digest(), 7443), MIRROR.id, NOW)
    node.receive(CaughtUp(), MIRROR.id, NOW)
    assert node.is_second_origin
    effects = node.was_copied()
    assert [each.peer for each in effects if isinstance(each, Drop)] == [MIRROR.id]
    node.wake(Instant(60.0))
    assert not node.is_reconciled
    assert not node.is_second_origin

"""What one key may do and what takes several: levels, revocations, bans, passes, drills."""

from dataclasses import replace
from hashlib import sha256

import pytest
from nacl.signing import SigningKey

from firedoor.dice import Dice
from firedoor.effects import Drop
from firedoor.errors import Malformed, TooLarge, Untrusted
from firedoor.halt.brake import Brake, Gate
from firedoor.halt.envelope import CONTROLLER_HALT, Envelope, Signature, seal
from firedoor.halt.order import (
    BanPayload,
    BeaconPayload,
    Halt,
    HaltPayload,
    PassPayload,
    ResumePayload,
    RevokePayload,
    read_order,
)
from firedoor.halt.orderset import OrderSet
from firedoor.halt.scope import Subject
from firedoor.halt.sync import OrderSync
from firedoor.identity import RING_DEFAULT, FleetId, Peer, PeerId, Place, Role
from firedoor.limits import CONTROLLER_HALTS_MAX, CONTROLLER_HALTS_OF_ONE_MAX, ORDER_BYTES_MAX
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.trust.keys import Authority, RoleKeys
from firedoor.trust.signing import sign, signed_bytes
from firedoor.units import Instant
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Beacon, CaughtUp, Hello, Orders

FLEET = FleetId("0a" * 16)
NAMES = ("halt-1", "halt-2", "resume-1", "resume-2", "resume-3", "promote-1", "promote-2", "beacon")
SEEDS = {name: sha256(name.encode()).digest() for name in NAMES}
KEYIDS = {name: sha256(seed).hexdigest() for name, seed in SEEDS.items()}


def role(threshold: int, *names: str) -> RoleKeys:
    public = {KEYIDS[name]: SigningKey(SEEDS[name]).verify_key.encode() for name in names}
    return RoleKeys(threshold, public)


ROLES = {
    "halt": role(1, "halt-1", "halt-2"),
    "resume": role(2, "resume-1", "resume-2", "resume-3"),
    "promote": role(2, "promote-1", "promote-2"),
    "beacon": role(1, "beacon"),
}
AUTHORITY = Authority(FLEET, 1, ROLES, is_fresh=True)

OLD = Subject("app", "1", sha256(b"one").digest(), counter=1, publisher="main")
NEW = Subject("app", "2", sha256(b"two").digest(), counter=2, publisher="main")
MAP = Subject("map", "9", sha256(b"map").digest(), counter=9, publisher="maps")
PEER = "0f" * 16
NOW = 1_700_000_000
START = Instant(0.0)


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


def signed(kind: str, payload: object, *names: str) -> tuple[bytes, bytes]:
    keys = {KEYIDS[name]: SEEDS[name] for name in names}
    return seal(kind, payload, fleet=FLEET, keys=keys)


def halt(
    scope: str, level: int, *names: str, number: int = 0, kind: str = "halt"
) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, nonce(number), scope, level, NOW, "bad")
    return signed(kind, payload, *(names or ("halt-1",)))


# --- a release's controller ---------------------------------------------------------------------

ROBOT = sha256(b"robot").digest()
KEYIDS["robot"], SEEDS["robot"] = sha256(ROBOT).hexdigest(), ROBOT
WATCHED = replace(AUTHORITY, controllers={("app", "2"): role(1, "robot")})
SAME = replace(NEW, product="map", version="2")


def robots_halt(scope: str = "app==2", level: int = 4, name: str = "robot") -> tuple[bytes, bytes]:
    return halt(scope, level, name, kind=CONTROLLER_HALT)


def levels_of(orders: OrderSet) -> list[int]:
    """Of the release that names the robot's key, and of the same bytes under another name."""
    brake = Brake()
    for each in (OLD, NEW, SAME):
        brake.learn(each)
    brake.set_halts(orders.in_force())
    return [brake.level(each) for each in (NEW, SAME)]


def test_a_controller_halts_the_release_that_names_its_key() -> None:
    order = read_order(robots_halt(level=6)[1], WATCHED)
    assert isinstance(order, Halt)
    assert order.is_by_controller
    brake = Brake()
    for each in (OLD, NEW, MAP):
        brake.learn(each)
    brake.set_halts([order])
    assert [brake.level(each) for each in (OLD, NEW, MAP)] == [0, 6, 0]


def test_a_controller_never_halts_the_same_bytes_under_another_name() -> None:
    orders = OrderSet()
    order, record = robots_halt()
    orders.admit(record, WATCHED)
    assert levels_of(orders) == [4, 0]
    # Nor once its publisher has taken the key off the release, or after a restart then.
    orders.judge(AUTHORITY)
    assert levels_of(orders) == [4, 0]
    assert orders.offered() == ()
    again = OrderSet()
    again.restore(record, AUTHORITY)
    assert levels_of(again) == [4, 0]
    again.judge(WATCHED)
    assert again.offered() == (order,)


@pytest.mark.parametrize(
    "scope", ["app", "app#1..2", "map==9", "app==1", "everything", f"digest:{NEW.content.hex()}"]
)
def test_a_controller_halts_nothing_else(scope: str) -> None:
    with pytest.raises((Untrusted, Malformed)):
        read_order(robots_halt(scope)[1], WATCHED)


def test_a_controller_names_no_contents() -> None:
    payload = HaltPayload(1, nonce(0), "app==2", 4, NOW, "bad", (MAP.content,))
    with pytest.raises(Malformed):
        read_order(signed(CONTROLLER_HALT, payload, "robot")[1], WATCHED)


def test_a_controllers_key_makes_nothing_but_its_own_kind_of_halt() -> None:
    for kind in ("halt", "drill"):
        with pytest.raises(Untrusted):
            read_order(halt("app==2", 4, "robot", kind=kind)[1], WATCHED)
    payload = ResumePayload(1, nonce(1), (bytes(32),), NOW, "it is well")
    with pytest.raises(Untrusted):
        read_order(signed("resume", payload, "robot", "resume-1")[1], WATCHED)


def test_a_halt_key_makes_no_controllers_halt() -> None:
    with pytest.raises(Untrusted):
        read_order(robots_halt(name="halt-1")[1], WATCHED)


def test_what_a_controller_signs_and_nobody_understands_stops_nothing() -> None:
    message = signed_bytes(FLEET, CONTROLLER_HALT, b"odd")
    signatures = (Signature(KEYIDS["robot"], sign(ROBOT, message)),)
    with pytest.raises(Malformed):
        read_order(encode(Envelope(CONTROLLER_HALT, b"odd", signatures)), WATCHED)


def test_a_controller_has_no_second_key_and_reaches_the_newest_alone() -> None:
    later = Subject("app", "3", sha256(b"three").digest(), counter=3, publisher="main")
    order = read_order(robots_halt(level=6)[1], WATCHED)
    assert isinstance(order, Halt)
    brake = Brake()
    for each in (OLD, NEW, later):
        brake.learn(each)
    brake.set_halts([order])
    assert brake.level(NEW) == 4


def test_a_revoked_controllers_key_halts_nothing_more() -> None:
    orders = OrderSet()
    orders.admit(robots_halt()[1], WATCHED)
    payload = RevokePayload(1, nonce(1), KEYIDS["robot"], (), NOW, "it ran wild")
    revoke, record = signed("revoke", payload, "resume-1", "resume-2")
    orders.admit(record, WATCHED)
    orders.name(signed("beacon", BeaconPayload(1, (revoke,)), "beacon")[1], WATCHED)
    orders.let_resumes_act()
    assert orders.in_force() == []


def test_publishers_with_many_keys_leave_people_their_room() -> None:
    watched = {("app", f"{number}"): role(1, "robot") for number in range(1000)}
    everywhere = replace(AUTHORITY, controllers=watched)
    orders, beacon = OrderSet(), []
    for number in range(CONTROLLER_HALTS_MAX):
        order, record = halt(f"app=={number}", 1, "robot", number=number, kind=CONTROLLER_HALT)
        orders.admit(record, everywhere)
        beacon.append(order)
        orders.name(signed("beacon", BeaconPayload(1, tuple(beacon)), "beacon")[1], everywhere)
    with pytest.raises(TooLarge, match="halts by controllers"):
        orders.admit(halt("app==999", 1, "robot", kind=CONTROLLER_HALT)[1], everywhere)
    orders.admit(halt("everything", 4)[1], everywhere)


def test_one_release_is_halted_by_its_controller_a_few_times_only() -> None:
    orders = OrderSet()
    records = [
        halt("app==2", 1, "robot", number=number, kind=CONTROLLER_HALT)[1]
        for number in range(CONTROLLER_HALTS_OF_ONE_MAX + 1)
    ]
    for record in records[1:]:
        orders.admit(record, WATCHED)
    with pytest.raises(TooLarge, match="app==2"):
        orders.admit(records[0], WATCHED)
    assert len(orders.ids()) == CONTROLLER_HALTS_OF_ONE_MAX


def test_a_controller_that_is_not_known_here_keeps_nobody_from_catching_up() -> None:
    with pytest.raises(Untrusted) as refusal:
        read_order(robots_halt()[1], AUTHORITY)
    sync = OrderSync(Peer(PeerId("1" * 32), Role.MIRROR, "branch"), bytes(32))
    sync.refuse(refusal.value)
    assert (sync.has_untrusted, sync.has_unknown) == (False, True)
    with pytest.raises(Untrusted) as refusal:
        read_order(halt("app", 4, "robot")[1], WATCHED)
    sync.refuse(refusal.value)
    assert sync.has_untrusted


def test_a_mirror_whose_beacon_is_of_yesterdays_key_brings_up_to_date_once_it_has_a_newer_one() -> (
    None
):
    turned = replace(AUTHORITY, roles={**ROLES, "beacon": role(1, "promote-1")})
    settings = NodeSettings(PeerId("2" * 32), Role.AGENT, "branch", 7443)
    node, mirror, now = Node(settings, Dice(1), START), PeerId("1" * 32), START
    node.trust(turned, now)
    node.connected(Peer(mirror, Role.MIRROR, "branch"), host="h", is_upstream=True, now=now)
    old = signed("beacon", BeaconPayload(1, ()), "beacon")[1]
    node.receive(Beacon(old), mirror, now)
    node.receive(Hello(node.orders.digest(), 7443), mirror, now)
    node.receive(CaughtUp(), mirror, now)
    assert not node.is_reconciled
    new = signed("beacon", BeaconPayload(1, ()), "promote-1")[1]
    node.receive(Beacon(new), mirror, now)
    node.wake(START)
    assert node.is_reconciled


def test_a_conversation_begins_anew_once_the_controller_is_known() -> None:
    settings = NodeSettings(PeerId("2" * 32), Role.AGENT, "branch", 7443)
    node, mirror, now = Node(settings, Dice(1), START), PeerId("1" * 32), START
    node.trust(AUTHORITY, now)
    node.connected(Peer(mirror, Role.MIRROR, "branch"), host="h", is_upstream=True, now=now)
    node.receive(Orders((robots_halt()[1],)), mirror, now)
    assert node.orders.ids() == ()
    dropped = [each for each in node.trust(WATCHED, now) if isinstance(each, Drop)]
    assert [each.peer for each in dropped] == [mirror]


def test_a_compaction_of_halts_leaves_out_a_controllers_halt_that_counts_no_more() -> None:
    orders = OrderSet()
    orders.admit(robots_halt()[1], WATCHED)
    orders.judge(AUTHORITY)
    compacted = replace(AUTHORITY, survivors=frozenset(), compacted="resume")
    assert not orders.compact(compacted)
    assert orders.compact(replace(compacted, compacted="halt"))
    assert orders.in_force() == []


class Fleet:
    """An order set and its brake, as a node has them."""

    def __init__(self, site: str = "branch", ring: str = RING_DEFAULT) -> None:
        self.orders = OrderSet()
        self.brake = Brake(Place(site, ring))
        for subject in (OLD, NEW, MAP):
            self.brake.learn(subject)

    def take(self, *orders: tuple[bytes, bytes]) -> "Fleet":
        """Admit these, as from a peer."""
        for _, record in orders:
            self.orders.admit(record, AUTHORITY)
        return self._settled()

    def name(self, *orders: tuple[bytes, bytes]) -> "Fleet":
        """The origin has recorded these."""
        ids = tuple(sorted(order_id for order_id, _ in orders))
        self.orders.name(signed("beacon", BeaconPayload(1, ids), "beacon")[1], AUTHORITY)
        return self._settled()

    def levels(self) -> tuple[int, int, int]:
        """Those of app 1, app 2 and the map."""
        return self.brake.level(OLD), self.brake.level(NEW), self.brake.level(MAP)

    def _settled(self) -> "Fleet":
        self.orders.let_resumes_act()
        self.brake.set_halts(self.orders.in_force(), self.orders.passed())
        return self


# --- levels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [5, 6, 7])
def test_one_key_reaches_above_4_for_the_newest_release_of_a_product_only(level: int) -> None:
    assert Fleet().take(halt("app==2", level)).levels() == (0, level, 0)
    assert Fleet().take(halt("app==1", level)).levels() == (4, 0, 0)


@pytest.mark.parametrize("level", [5, 6, 7])
def test_two_keys_reach_every_narrow_scope(level: int) -> None:
    both = ("halt-1", "halt-2")
    assert Fleet().take(halt("app==1", level, *both)).levels() == (level, 0, 0)
    assert Fleet().take(halt("app#1..2", level, *both)).levels() == (level, level, 0)


def test_one_key_cannot_walk_a_fleet_down_version_by_version() -> None:
    fleet = Fleet().take(halt("app==2", 6), halt("app==1", 6, number=1))
    assert fleet.levels() == (4, 6, 0)


def test_a_second_signature_on_a_known_halt_raises_it() -> None:
    order = halt("app==1", 6)
    fleet = Fleet().take(order)
    assert fleet.levels() == (4, 0, 0)
    assert halt("app==1", 6, "halt-1", "halt-2")[0] == order[0]
    assert fleet.take(halt("app==1", 6, "halt-2")).levels() == (6, 0, 0)


def test_a_name_that_has_not_signed_counts_for_nothing() -> None:
    _, record = halt("app==1", 6)
    envelope = decode(Envelope, record, what="halt", limit=ORDER_BYTES_MAX)
    forged = (*envelope.signatures, Signature(KEYIDS["halt-2"], bytes(64)))
    order = read_order(encode(replace(envelope, signatures=forged)), AUTHORITY)
    assert order.keyids == {KEYIDS["halt-1"]}
    assert order.record == record


@pytest.mark.parametrize(
    ("scope", "levels"),
    [
        ("app#2..9", (0, 3, 0)),
        ("app#1..1", (3, 0, 0)),
        ("publisher:main", (3, 3, 0)),
        ("site:branch", (3, 3, 3)),
        ("site:elsewhere", (0, 0, 0)),
        ("ring:broad", (3, 3, 3)),
        ("ring:canary", (0, 0, 0)),
        ("everything", (3, 3, 3)),
    ],
)
def test_a_scope_reaches_what_it_names(scope: str, levels: tuple[int, int, int]) -> None:
    assert Fleet().take(halt(scope, 3)).levels() == levels


def test_a_range_denies_the_same_bytes_under_a_version_outside_it() -> None:
    fleet = Fleet().take(halt("app#2..2", 4))
    assert not fleet.brake.permits(Gate.SERVE, replace(NEW, version="3", counter=3))


# --- revocation ---------------------------------------------------------------------------------


def revoke(name: str, *survivors: bytes, number: int = 50) -> tuple[bytes, bytes]:
    payload = RevokePayload(1, nonce(number), KEYIDS[name], survivors, NOW, "stolen")
    return signed("revoke", payload, "resume-1", "resume-2")


def test_a_revocation_ends_every_order_of_its_key_that_it_does_not_list() -> None:
    mine, thief = halt("app", 4), halt("everything", 4, number=1)
    turned = revoke("halt-1", mine[0])
    fleet = Fleet().take(mine, thief)
    assert fleet.levels() == (4, 4, 4)
    assert fleet.take(turned).levels() == (4, 4, 4)
    assert fleet.name(turned).levels() == (4, 4, 0)


def test_an_order_of_a_revoked_key_that_comes_later_is_void_whatever_its_date() -> None:
    turned = revoke("halt-1")
    fleet = Fleet().take(turned).name(turned)
    assert fleet.take(halt("everything", 4)).levels() == (0, 0, 0)
    assert fleet.take(halt("app", 4, "halt-2", number=2)).levels() == (4, 4, 0)


def test_a_halt_of_two_keys_loses_one_and_with_it_its_reach() -> None:
    turned, order = revoke("halt-2"), halt("app==1", 6, "halt-1", "halt-2")
    assert Fleet().take(order, turned).name(turned).levels() == (4, 0, 0)


def test_a_resume_by_a_revoked_key_has_too_few_left_and_the_halt_is_back() -> None:
    order = halt("app", 4)
    payload = ResumePayload(1, nonce(7), (order[0],), NOW, "fine")
    lift = signed("resume", payload, "resume-2", "resume-3")
    fleet = Fleet().take(order, lift).name(order, lift)
    assert fleet.levels() == (0, 0, 0)
    turned = revoke("resume-3")
    assert fleet.take(turned).name(order, lift, turned).levels() == (4, 4, 0)


@pytest.mark.parametrize("names", [("halt-1",), ("halt-1", "halt-2"), ("resume-1",)])
def test_a_revocation_takes_as_many_resume_keys_as_a_resume(names: tuple[str, ...]) -> None:
    payload = RevokePayload(1, nonce(0), KEYIDS["halt-2"], (), NOW, "")
    with pytest.raises(Untrusted, match="role resume"):
        Fleet().take(signed("revoke", payload, *names))


# --- bans ---------------------------------------------------------------------------------------


def ban() -> tuple[bytes, bytes]:
    return signed("ban", BanPayload(1, nonce(3), PEER, NOW, "stolen"), "resume-1", "resume-3")


def test_a_ban_acts_when_held_and_is_lifted_by_a_resume() -> None:
    order = ban()
    fleet = Fleet().take(order)
    assert fleet.orders.banned() == {PEER}
    payload = ResumePayload(1, nonce(4), (order[0],), NOW, "found")
    lift = signed("resume", payload, "resume-1", "resume-2")
    assert fleet.take(lift).orders.banned() == {PEER}
    assert fleet.name(order, lift).orders.banned() == frozenset()


def test_halt_keys_cut_nobody_off() -> None:
    with pytest.raises(Untrusted, match="role resume"):
        Fleet().take(signed("ban", BanPayload(1, nonce(3), PEER, NOW, ""), "halt-1", "halt-2"))


# --- passes -------------------------------------------------------------------------------------


def a_pass(*names: str) -> tuple[bytes, bytes]:
    payload = PassPayload(1, nonce(5), NEW.content, NOW, "it mends all")
    return signed("pass", payload, *(names or ("promote-1", "promote-2")))


def test_a_pass_goes_through_halts_of_everything_once_the_origin_has_named_it() -> None:
    fix = a_pass()
    fleet = Fleet().take(halt("everything", 4), fix)
    assert fleet.levels() == (4, 4, 4)
    assert fleet.name(fix).levels() == (4, 0, 4)


@pytest.mark.parametrize("scope", ["app", "app==2", "publisher:main", "site:branch", "ring:broad"])
def test_a_pass_goes_through_no_other_halt(scope: str) -> None:
    fix = a_pass()
    assert Fleet().take(halt(scope, 4), fix).name(fix).levels()[1] == 4


def test_a_pass_does_not_go_through_what_is_not_understood() -> None:
    fix = a_pass()
    assert Fleet().take(halt("planet:mars", 2), fix).name(fix).levels() == (4, 4, 4)


@pytest.mark.parametrize("names", [("promote-1",), ("halt-1", "halt-2"), ("resume-1", "resume-2")])
def test_a_pass_takes_as_many_promote_keys_as_the_fleet_says(names: tuple[str, ...]) -> None:
    with pytest.raises(Untrusted, match="role promote"):
        Fleet().take(a_pass(*names))


# --- drills -------------------------------------------------------------------------------------


def test_a_drill_is_in_force_and_denies_nothing() -> None:
    order = halt("everything", 4, kind="drill")
    fleet = Fleet().take(order)
    assert [each.is_drill for each in fleet.orders.in_force()] == [True]
    assert fleet.levels() == (0, 0, 0)


def test_a_drill_is_no_halt_by_another_name() -> None:
    drill, real = halt("app", 4, kind="drill"), halt("app", 4)
    assert drill[0] != real[0]
    envelope = decode(Envelope, drill[1], what="drill", limit=ORDER_BYTES_MAX)
    with pytest.raises(Untrusted):
        read_order(encode(replace(envelope, kind="halt")), AUTHORITY)


# --- compaction ---------------------------------------------------------------------------------


def turned(*survivors: bytes) -> Authority:
    """The same fleet after a compaction: other halt keys, and what survives."""
    roles = ROLES | {"halt": role(1, "halt-2")}
    ids = frozenset(each.hex() for each in survivors)
    return replace(AUTHORITY, targets_version=2, roles=roles, survivors=ids, compacted="halt")


def test_a_compaction_forgets_the_orders_of_old_keys_that_it_does_not_list() -> None:
    kept, gone = halt("app", 4), halt("map", 4, number=1)
    fleet = Fleet().take(kept, gone)
    after = turned(kept[0])
    fleet.orders.judge(after)
    assert fleet.orders.compact(after) == {gone[0]}
    assert fleet.orders.ids() == (kept[0],)


def test_a_compaction_leaves_what_keys_of_today_have_signed() -> None:
    fleet = Fleet().take(halt("app", 4, "halt-2"))
    after = turned()
    fleet.orders.judge(after)
    assert not fleet.orders.compact(after)


def test_expired_metadata_compacts_nothing() -> None:
    fleet = Fleet().take(halt("app", 4))
    after = replace(turned(), is_fresh=False)
    fleet.orders.judge(after)
    assert not fleet.orders.compact(after)
    assert len(fleet.orders.ids()) == 1


def test_a_halt_from_the_future_acts_like_any_other() -> None:
    payload = HaltPayload(1, nonce(0), "app", 4, 2**62, "sent by a wrong clock")
    assert Fleet().take(signed("halt", payload, "halt-1")).levels() == (4, 4, 0)


def test_what_the_last_beacon_names_stays_named_when_other_keys_turn() -> None:
    order = halt("app", 4)
    payload = ResumePayload(1, nonce(7), (order[0],), NOW, "fine")
    lift = signed("resume", payload, "resume-1", "resume-2")
    # The beacon overtakes the resume that it names, and a publisher's key turns in between.
    fleet = Fleet().take(order)
    beacon = signed("beacon", BeaconPayload(1, tuple(sorted((order[0], lift[0])))), "beacon")[1]
    fleet.orders.name(beacon, AUTHORITY)
    fleet.orders.beacon = beacon
    fleet.orders.judge(replace(AUTHORITY, targets_version=2))
    assert fleet.take(lift).levels() == (0, 0, 0)

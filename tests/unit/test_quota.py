"""How fast the origin logs new orders of one key."""

from hashlib import sha256

import pytest

from firedoor.errors import TooLarge
from firedoor.halt.envelope import seal
from firedoor.halt.order import BeaconPayload, HaltPayload
from firedoor.halt.orderset import OrderSet
from firedoor.halt.quota import LOGGED_EACH_SPAN, Quota
from firedoor.identity import FleetId
from firedoor.limits import LOGGED_AT_ONCE_MAX
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.units import Instant

FLEET = FleetId("0a" * 16)
HALT, BEACON = sha256(b"halt").digest(), sha256(b"beacon").digest()


def role(seed: bytes) -> RoleKeys:
    key = key_of(seed)
    return RoleKeys(1, {key.keyid: bytes.fromhex(key.keyval["public"])})


AUTHORITY = Authority(FLEET, 1, {"halt": role(HALT), "beacon": role(BEACON)}, is_fresh=True)


def spent() -> Quota:
    quota = Quota()
    for _ in range(LOGGED_AT_ONCE_MAX):
        quota.take({"thief"}, Instant(0.0))
    return quota


def test_a_key_that_signs_too_fast_waits() -> None:
    quota = spent()
    with pytest.raises(TooLarge, match="one in 10 s"):
        quota.take({"thief"}, Instant(LOGGED_EACH_SPAN * 0.9))
    quota.take({"thief"}, Instant(LOGGED_EACH_SPAN))
    with pytest.raises(TooLarge):
        quota.take({"thief"}, Instant(LOGGED_EACH_SPAN * 1.1))


def test_one_key_that_waits_holds_up_no_other() -> None:
    spent().take({"honest"}, Instant(0.0))


def test_what_is_refused_uses_nothing_up() -> None:
    quota = spent()
    for _ in range(1000):
        with pytest.raises(TooLarge):
            quota.take({"thief", "honest"}, Instant(1.0))
    for _ in range(LOGGED_AT_ONCE_MAX):
        quota.take({"honest"}, Instant(1.0))


def test_a_burst_comes_back_whole_after_a_while() -> None:
    quota = spent()
    later = Instant(LOGGED_EACH_SPAN * LOGGED_AT_ONCE_MAX)
    for _ in range(LOGGED_AT_ONCE_MAX):
        quota.take({"thief"}, later)
    with pytest.raises(TooLarge):
        quota.take({"thief"}, later)


def a_halt(number: int) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, number.to_bytes(16, "big"), "app==1", 4, 0, "bad")
    return seal("halt", payload, fleet=FLEET, keys={key_of(HALT).keyid: HALT})


def test_an_origin_that_was_set_back_takes_at_once_what_a_beacon_names() -> None:
    halts = [a_halt(number) for number in range(2 * LOGGED_AT_ONCE_MAX)]
    payload = BeaconPayload(1, tuple(order for order, _ in halts))
    beacon = seal("beacon", payload, fleet=FLEET, keys={key_of(BEACON).keyid: BEACON})[1]
    orders = OrderSet(Quota())
    orders.name(beacon, AUTHORITY)
    for _, record in halts:
        orders.admit(record, AUTHORITY, Instant(0.0))
    assert len(orders.ids()) == len(halts)


def test_an_origin_logs_a_burst_of_new_orders_and_then_one_in_a_while() -> None:
    orders = OrderSet(Quota())
    for number in range(LOGGED_AT_ONCE_MAX):
        order, record = a_halt(number)
        orders.admit(record, AUTHORITY, Instant(0.0))
        payload = BeaconPayload(1, (order,))
        keys = {key_of(BEACON).keyid: BEACON}
        orders.name(seal("beacon", payload, fleet=FLEET, keys=keys)[1], AUTHORITY)
    with pytest.raises(TooLarge):
        orders.admit(a_halt(1000)[1], AUTHORITY, Instant(1.0))
    orders.admit(a_halt(1000)[1], AUTHORITY, Instant(LOGGED_EACH_SPAN))

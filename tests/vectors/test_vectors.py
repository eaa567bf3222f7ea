"""The frozen bytes of every message, every kind of order, and every record on a stick.

A vector never changes: a change here is a change of the protocol, and old peers would refuse it.
In the JSON, text that starts with `hex:` stands for bytes; `speaks` is the version of the protocol
(wire/versions.py) in which a frame is written, 1 where it is absent.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from firedoor.errors import FiredoorError, Malformed, TooLarge, Untrusted
from firedoor.halt.envelope import seal
from firedoor.halt.lease import LeasePayload, read_lease
from firedoor.halt.order import (
    Ban,
    BanPayload,
    BeaconPayload,
    Halt,
    HaltPayload,
    Pass,
    PassPayload,
    Resume,
    ResumePayload,
    Revoke,
    RevokePayload,
    read_beacon,
    read_order,
)
from firedoor.halt.scope import ScopeKind, parse_scope
from firedoor.identity import FleetId
from firedoor.trust.keys import Authority, RoleKeys, controller_of, key_of
from firedoor.trust.signing import signed_bytes
from firedoor.wire.codec import decode, encode, pack, record
from firedoor.wire.messages import TAGS, decode_message, encode_message
from firedoor.wire.stick import STICK_BYTES_MAX, ImportResult, Inbound, MetadataFiles, Outbound

HERE = Path(__file__).parent

PAYLOADS: Mapping[str, type[object]] = {
    "halt": HaltPayload,
    "controller-halt": HaltPayload,
    "resume": ResumePayload,
    "beacon": BeaconPayload,
    "drill": HaltPayload,
    "revoke": RevokePayload,
    "ban": BanPayload,
    "pass": PassPayload,
    "lease": LeasePayload,
}
REFUSALS: Mapping[str, type[FiredoorError]] = {
    error.code: error for error in (Malformed, TooLarge, Untrusted)
}


def revived(value: Any) -> Any:
    """`value` of a JSON file with `hex:` text as the bytes that it stands for."""
    if isinstance(value, dict):
        return {key: revived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revived(item) for item in value]
    if isinstance(value, str) and value.startswith("hex:"):
        return bytes.fromhex(value.removeprefix("hex:"))
    return value


def load(name: str) -> Any:
    return revived(json.loads((HERE / name).read_text(encoding="utf-8")))


MESSAGES = load("messages.json")
ORDERS = load("orders.json")
CARRIED = load("stick.json")
ON_A_STICK: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (ImportResult, Inbound, MetadataFiles, Outbound)
}
KEYS = ORDERS["keys"]
FLEET = FleetId(ORDERS["fleet"])


def ids_of(vectors: list[Any]) -> list[str]:
    return [vector["name"] for vector in vectors]


def test_every_message_tag_has_a_vector() -> None:
    assert {(vector["tag"], vector["message"]) for vector in MESSAGES} == {
        (tag, kind.__name__) for tag, kind in TAGS.items()
    }


@pytest.mark.parametrize("vector", MESSAGES, ids=ids_of(MESSAGES))
def test_a_frozen_frame_is_read_as_its_fields(vector: Any) -> None:
    wanted = record(TAGS[vector["tag"]], vector["fields"], what="vector")
    assert decode_message(vector["frame"]) == wanted


@pytest.mark.parametrize("vector", MESSAGES, ids=ids_of(MESSAGES))
def test_fields_are_written_as_the_frozen_frame(vector: Any) -> None:
    message = record(TAGS[vector["tag"]], vector["fields"], what="vector")
    assert encode_message(message, vector.get("speaks", 1)) == vector["frame"]
    assert pack([vector["tag"], vector["fields"]]) == vector["frame"]


def test_every_record_on_a_stick_has_a_vector() -> None:
    assert {vector["record"] for vector in CARRIED} == set(ON_A_STICK)


@pytest.mark.parametrize("vector", CARRIED, ids=ids_of(CARRIED))
def test_a_record_on_a_stick_is_written_and_read_as_its_frozen_bytes(vector: Any) -> None:
    kind = ON_A_STICK[vector["record"]]
    wanted = record(kind, vector["fields"], what="vector")
    assert encode(wanted) == vector["bytes"]
    assert decode(kind, vector["bytes"], what="vector", limit=STICK_BYTES_MAX) == wanted


def authority() -> Authority:
    roles = {
        name: RoleKeys(
            threshold=part["threshold"],
            keys={KEYS[key]["keyid"]: KEYS[key]["public"] for key in part["keys"]},
        )
        for name, part in ORDERS["roles"].items()
    }
    controllers = {
        tuple(release.split("==")): controller_of(KEYS[key]["public"].hex())
        for release, key in ORDERS["controllers"].items()
    }
    return Authority(
        fleet=FLEET, targets_version=1, roles=roles, is_fresh=True, controllers=controllers
    )


def seeds_of(vector: Any) -> dict[str, bytes]:
    return {KEYS[key]["keyid"]: KEYS[key]["seed"] for key in vector["signed_by"]}


READ = [vector for vector in ORDERS["records"] if "refused" not in vector]
REFUSED = [vector for vector in ORDERS["records"] if "refused" in vector]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_frozen_seed_makes_its_frozen_key(key: Any) -> None:
    assert SigningKey(key["seed"]).verify_key.encode() == key["public"]
    assert key_of(key["seed"]).keyid == key["keyid"]


def test_every_kind_of_order_and_of_scope_has_a_vector() -> None:
    assert {vector["kind"] for vector in READ} == set(PAYLOADS)
    scopes = {
        parse_scope(vector["fields"]["scope"]).kind
        for vector in READ
        if vector["kind"] == "halt" and not vector.get("is_doubtful")
    }
    assert scopes == set(ScopeKind)
    assert any(vector.get("is_doubtful") for vector in READ)


@pytest.mark.parametrize("vector", ORDERS["records"], ids=ids_of(ORDERS["records"]))
def test_the_signed_bytes_and_the_id_are_the_frozen_ones(vector: Any) -> None:
    fleet = FleetId(vector.get("fleet", FLEET))
    assert pack(vector["fields"]) == vector["payload"]
    assert signed_bytes(fleet, vector["kind"], vector["payload"]) == vector["signed"]
    assert sha256(vector["signed"]).digest() == vector["id"]


MADE = [vector for vector in ORDERS["records"] if not vector.get("is_doubtful")]


@pytest.mark.parametrize("vector", MADE, ids=ids_of(MADE))
def test_sealing_makes_the_frozen_record(vector: Any) -> None:
    payload = record(PAYLOADS[vector["kind"]], vector["fields"], what="vector")
    fleet = FleetId(vector.get("fleet", FLEET))
    assert encode(payload) == vector["payload"]
    assert seal(vector["kind"], payload, fleet=fleet, keys=seeds_of(vector)) == (
        vector["id"],
        vector["record"],
    )


@pytest.mark.parametrize("vector", READ, ids=ids_of(READ))
def test_a_frozen_record_is_read_as_its_fields(vector: Any) -> None:
    fields = vector["fields"]
    if vector["kind"] == "lease":
        assert read_lease(vector["record"], authority()) == LeasePayload(**fields)
        return
    if vector["kind"] == "beacon":
        assert read_beacon(vector["record"], authority())[0] == frozenset(fields["ids"])
        return
    order = read_order(vector["record"], authority())
    assert order.id == vector["id"]
    assert order.signers == set(seeds_of(vector))
    if vector.get("is_doubtful"):
        assert isinstance(order, Halt)
        assert (order.is_doubtful, order.scope.kind) == (True, ScopeKind.EVERYTHING)
        assert order.level == 4
        return
    assert (order.kind, order.keyids) == (vector["kind"], order.signers)
    assert (order.reason, order.issued_at) == (fields["reason"], fields["issued_at"])
    match order:
        case Halt():
            assert (order.is_doubtful, order.scope) == (False, parse_scope(fields["scope"]))
            assert (order.level, order.contents) == (fields["level"], frozenset(fields["contents"]))
            assert order.scope.text == fields["scope"]
        case Resume():
            assert order.halts == frozenset(fields["halts"])
        case Revoke():
            assert (order.keyid, order.survivors) == (
                fields["keyid"],
                frozenset(fields["survivors"]),
            )
        case Ban():
            assert order.peer == fields["peer"]
        case Pass():
            assert order.content == fields["content"]


@pytest.mark.parametrize("vector", REFUSED, ids=ids_of(REFUSED))
def test_a_frozen_bad_record_is_refused_by_name(vector: Any) -> None:
    read = read_beacon if vector["kind"] == "beacon" else read_order
    with pytest.raises(REFUSALS[vector["refused"]]):
        read(vector["record"], authority())

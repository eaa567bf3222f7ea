"""What a hostile peer says: it moves no terminal's cursor, and ends no command by a traceback."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firedoor.cli.fleet.enrolment import Token
from firedoor.runtime.keys.authority import fingerprint
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.metadata.trust_client import fleet_of
from tests.attacks.ground import (
    Liar,
    Said,
    assert_harmless,
    assert_one_sentence,
    firedoor,
    liar,
)
from tests.unit.origin_bench import COUNTS, NOW

pytestmark = pytest.mark.slow

# Clears the screen and writes what a person would like to read.
PAINT = "\x1b[2J\x1b[Hnothing is halted\r\n\x9b31m\N{RIGHT-TO-LEFT OVERRIDE}"

Table = dict[str, Any]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground") / "fleet"
    make_fleet(folder, FleetPlan("test", "127.0.0.1:1", (), COUNTS, None), NOW)
    return folder


@pytest.fixture(scope="module")
def peer(fleet: Path) -> Iterator[Liar]:
    with liar(fleet / "origin" / "identity.key", {}) as made:
        yield made


def honest() -> Table:
    """A mirror's status with a halt, a drill, a ban, a release and an endpoint."""
    order = {
        "id": "ab" * 32, "kind": "halt", "scope": "app==1", "level": 4, "reason": "r",
        "issued_at": 1, "is_named": True, "is_recorded": True, "is_in_force": True,
    }  # fmt: skip
    product = {
        "product": "app", "version": "1", "manifest": "cd" * 32, "phase": "idle", "detail": "",
    }  # fmt: skip
    endpoint = {
        "id": "e" * 32, "site": "branch", "seen_at": NOW, "is_connected": True,
        "orders": ["ab" * 32], "products": [product],
    }  # fmt: skip
    release = {
        "product": "app", "version": "1", "manifest": "cd" * 32, "content": "ef" * 32,
        "level": 0, "counter": 1, "pieces_total": 1, "pieces_have": 1,
    }  # fmt: skip
    return {
        "id": "0" * 32, "role": "mirror", "site": "hq", "is_reconciled": True,
        "is_trust_fresh": True, "lease": {"start_s": 30.0, "move_s": 3600.0},
        "orders": [
            order,
            order | {"kind": "drill", "id": "ac" * 32},
            {"id": "ad" * 32, "kind": "ban", "peer": "f" * 32, "issued_at": 1},
        ],
        "releases": [release], "endpoints": [endpoint], "products": [],
    }  # fmt: skip


def at(path: tuple[str | int, ...], value: object) -> Table:
    """That status with another value in one place."""
    table = honest()
    inner: Any = table
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return table


def ask(fleet: Path, peer: Liar, status: bytes, *words: object) -> Said:
    peer.answers["/v1/status"] = status
    key = fleet / "keys" / "operator.key"
    return firedoor(*(words or ("status",)), "--key", key, "--to", peer.address)


def assert_seen_safely(said: Said) -> None:
    assert "Traceback" not in said.text
    assert_harmless(said.text)
    if said.code != 0:
        assert_one_sentence(said)


def test_an_honest_status_is_shown(fleet: Path, peer: Liar) -> None:
    said = ask(fleet, peer, json.dumps(honest()).encode())
    assert said.code == 0, said.err
    assert "HALTED app==1 at level 4" in said.out


PLACES: list[tuple[str | int, ...]] = [
    ("id",), ("role",), ("site",), ("lease", "start_s"),
    ("orders", 0, "id"), ("orders", 0, "level"), ("orders", 0, "scope"), ("orders", 0, "kind"),
    ("orders", 0, "reason"), ("orders", 1, "scope"), ("orders", 1, "level"), ("orders", 2, "peer"),
    ("releases", 0, "version"), ("releases", 0, "product"), ("endpoints", 0, "id"),
    ("endpoints", 0, "site"), ("endpoints", 0, "products", 0, "version"),
    ("endpoints", 0, "products", 0, "detail"), ("endpoints", 0, "products", 0, "phase"),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_field_of_a_status_paints_over_the_screen(
    fleet: Path, peer: Liar, place: tuple[str | int, ...]
) -> None:
    assert_seen_safely(ask(fleet, peer, json.dumps(at(place, PAINT)).encode()))


ODD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "no UTF-8": b'{"id": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"7",
    "an empty map": b"{}",
    "deep brackets": b"[" * 100_000,
    "a large number": b'{"id": ' + b"9" * 5000 + b"}",
    "no orders": json.dumps(at(("orders",), None)).encode(),
    "orders that are texts": json.dumps(at(("orders",), ["halt"])).encode(),
    "an endpoint without products": json.dumps(at(("endpoints",), [{}])).encode(),
    "a time that is none": json.dumps(at(("endpoints", 0, "seen_at"), "now")).encode(),
    "a release without a counter": json.dumps(at(("releases",), [{"level": 0}])).encode(),
    "a site that is a map": json.dumps(at(("site",), {"a": 1})).encode(),
    "an id that is a number": json.dumps(at(("id",), 7)).encode(),
    "a lease that is a text": json.dumps(at(("lease",), "30")).encode(),
}


@pytest.mark.parametrize("status", ODD.values(), ids=ODD)
def test_a_status_that_is_none_is_said_in_a_sentence(
    fleet: Path, peer: Liar, status: bytes
) -> None:
    said = ask(fleet, peer, status)
    assert_seen_safely(said)
    assert said.code == 1


@pytest.mark.parametrize("name", ["no JSON", "a list", "an empty map", "deep brackets"])
def test_a_status_that_is_none_is_no_traceback_as_json(fleet: Path, peer: Liar, name: str) -> None:
    assert_seen_safely(ask(fleet, peer, ODD[name], "status", "--json"))


@pytest.mark.parametrize("status", [b"[]", b"{}", b"[" * 100_000, b'{"orders": 3}'])
@pytest.mark.parametrize("command", ["resume", "carry", "certificate"])
def test_a_command_that_asks_for_a_status_comes_through_any(
    fleet: Path, peer: Liar, tmp_path: Path, command: str, status: bytes
) -> None:
    peer.answers["/v1/status"] = status
    key = fleet / "keys" / ("resume-1.key" if command == "resume" else "operator.key")
    # The command asks the origin that its key names.
    own = tmp_path / "own.key"
    own.write_text(key.read_text("utf-8").replace('"127.0.0.1:1"', f'"{peer.address}"'), "utf-8")
    root = (fleet / "root.json").read_bytes()
    peer.answers["/v1/metadata/1.root.json"] = root
    words: dict[str, tuple[object, ...]] = {
        "resume": ("resume", "ab", "--reason", "r", "--sign-only", tmp_path / "part"),
        "carry": ("carry", tmp_path / "stick"),
        "certificate": ("certificate", "--halt", "ab", "--wait", 1),
    }
    said = firedoor(*words[command], "--key", own)
    assert_seen_safely(said)
    assert said.code == 1


def test_a_role_that_paints_is_not_painted_by_carry(
    fleet: Path, peer: Liar, tmp_path: Path
) -> None:
    status = json.dumps(at(("role",), PAINT)).encode()
    assert_seen_safely(ask(fleet, peer, status, "carry", tmp_path / "stick"))


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"7", b'{"token": 7}', b"[" * 100_000])
def test_a_token_that_is_none_is_said_in_a_sentence(
    fleet: Path, peer: Liar, tmp_path: Path, answer: bytes
) -> None:
    peer.answers["/v1/tokens"] = answer
    own = tmp_path / "own.key"
    text = (fleet / "keys" / "operator.key").read_text("utf-8")
    own.write_text(text.replace('"127.0.0.1:1"', f'"{peer.address}"'), "utf-8")
    words = ("--role", "agent", "--site", "x", "--enrol", "127.0.0.1:2", "--key", own)
    said = firedoor("token", *words)
    assert_seen_safely(said)
    assert said.code == 1


# --- who takes enrolments ------------------------------------------------------------------------


def enrol(fleet: Path, peer: Liar, state: Path) -> Said:
    root = (fleet / "root.json").read_bytes()
    ca = (fleet / "origin" / "ca.pem").read_bytes()
    peer.answers["/ca.pem"] = ca
    token = Token(fleet_of(root), peer.address, fingerprint(ca), "secret")
    table = {name: getattr(token, name) for name in ("fleet", "address", "ca", "secret")}
    return firedoor("enrol", base64.urlsafe_b64encode(json.dumps(table).encode()).decode(),
                    "--state", state)  # fmt: skip


def accepted(fleet: Path, **changes: object) -> Table:
    root = (fleet / "root.json").read_bytes()
    ca = (fleet / "origin" / "ca.pem").read_text("utf-8")
    base = {
        "certificate": "none", "ca": ca, "root": base64.b64encode(root).decode(),
        "role": "agent", "site": "x", "ring": "all", "id": "0" * 32,
    }  # fmt: skip
    return base | changes


@pytest.fixture
def listener(fleet: Path) -> Iterator[Liar]:
    with liar(fleet / "origin" / "identity.key", {}, is_enrolment=True) as made:
        yield made


@pytest.mark.parametrize(
    "answer", [b"[]", b'{"certificate": 7}', b"[" * 100_000, b'{"certificate": "x", "root": "!"}']
)
def test_an_enrolment_s_answer_that_is_none_is_said_in_a_sentence(
    fleet: Path, listener: Liar, tmp_path: Path, answer: bytes
) -> None:
    listener.answers["/enrol"] = answer
    said = enrol(fleet, listener, tmp_path / "state")
    assert_seen_safely(said)
    assert said.code == 1
    assert not (tmp_path / "state" / "identity.key").exists()


@pytest.mark.parametrize("name", ["role", "id", "site", "ring"])
def test_no_field_of_an_enrolment_paints_over_the_screen(
    fleet: Path, listener: Liar, tmp_path: Path, name: str
) -> None:
    listener.answers["/enrol"] = json.dumps(accepted(fleet, **{name: PAINT})).encode()
    assert_seen_safely(enrol(fleet, listener, tmp_path / "state"))

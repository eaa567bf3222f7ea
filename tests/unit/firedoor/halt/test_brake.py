"""Scopes as text, what they cover, and which gates a halt closes."""

from hashlib import sha256

import pytest

from firedoor.errors import Malformed
from firedoor.halt.brake import Brake, Gate
from firedoor.halt.order import Halt
from firedoor.halt.scope import Scope, ScopeKind, Subject, parse_scope

A = sha256(b"a").digest()
B = sha256(b"b").digest()
FILE = sha256(b"file").digest()

APP_1 = Subject("app", "1", A)
APP_2 = Subject("app", "2", B)
OTHER_1 = Subject("other", "1", sha256(b"c").digest())


def halt(text: str, level: int = 4, contents: tuple[bytes, ...] = (), *, signers: int = 1) -> Halt:
    """A verified halt of the scope `text`, as read_order would give it."""
    order_id = sha256(repr((text, level, contents)).encode()).digest()
    scope = parse_scope(text)
    keys = frozenset(f"key {number}" for number in range(signers))
    return Halt(order_id, "halt", b"", keys, keys, "", 0, scope, level, frozenset(contents))


def brake_of(*halts: Halt) -> Brake:
    brake = Brake()
    brake.set_halts(halts)
    return brake


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("everything", Scope(ScopeKind.EVERYTHING)),
        ("app", Scope(ScopeKind.PRODUCT, "app")),
        ("Everything", Scope(ScopeKind.PRODUCT, "Everything")),
        ("digest", Scope(ScopeKind.PRODUCT, "digest")),
        ("app==1.2+b-3", Scope(ScopeKind.RELEASE, "app", version="1.2+b-3")),
        ("everything==1", Scope(ScopeKind.RELEASE, "everything", version="1")),
        ("digest:" + A.hex(), Scope(ScopeKind.DIGEST, digest=A)),
        ("p" * 64 + "==" + "v" * 64, Scope(ScopeKind.RELEASE, "p" * 64, version="v" * 64)),
    ],
)
def test_a_scope_is_read_as_a_person_types_it(text: str, scope: Scope) -> None:
    assert parse_scope(text) == scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        " app",
        "app ",
        "app\n",
        "app==",
        "==1",
        "app==1==2",
        "app==1\n",
        "app=1",
        "app>=1",
        "-app",
        ".app",
        "+app",
        "../app",
        "app/x",
        "p" * 65,
        "app==" + "v" * 65,
        "everything ",
        "everything\n",
        "äpp",
        "planet:1",
        "digest:",
        "digest:" + A.hex()[1:],
        "digest:" + A.hex() + "0",
        "digest:" + A.hex().upper(),
        "digest:" + A.hex() + "\n",
        "Digest:" + A.hex(),
    ],
)
def test_any_other_scope_is_refused(text: str) -> None:
    with pytest.raises(Malformed) as refusal:
        parse_scope(text)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("everything", [APP_1, APP_2, OTHER_1]),
        ("app", [APP_1, APP_2]),
        ("App", []),
        ("app==1", [APP_1]),
        ("app==3", []),
        ("other==2", []),
        ("digest:" + B.hex(), [APP_2]),
        ("digest:" + FILE.hex(), []),
    ],
)
def test_a_halt_covers_what_its_scope_names(text: str, covered: list[Subject]) -> None:
    brake = brake_of(halt(text))
    assert [subject for subject in (APP_1, APP_2, OTHER_1) if brake.level(subject)] == covered


def test_a_digest_scope_meets_a_release_that_contains_the_file() -> None:
    brake = brake_of(halt("digest:" + FILE.hex()))
    assert brake.level(Subject("app", "1", A, frozenset({FILE, B}))) == 4
    assert brake.level(Subject("app", "1", A, frozenset({B}))) == 0


def test_a_digest_scope_meets_content_while_the_files_are_unknown() -> None:
    assert brake_of(halt("digest:" + A.hex())).level(APP_1) == 4


def test_the_same_bytes_under_another_version_stay_halted() -> None:
    brake = brake_of(halt("app==1"))
    brake.learn(APP_1)
    assert brake.level(Subject("app", "2", A)) == 4
    assert brake.level(Subject("other", "9", A)) == 4
    assert brake.level(APP_2) == 0


def test_a_release_learned_before_its_halt_denies_its_bytes_too() -> None:
    brake = Brake()
    brake.learn(APP_1)
    brake.set_halts([halt("app==1")])
    assert brake.level(Subject("app", "2", A)) == 4


def test_two_contents_under_one_name_are_both_denied() -> None:
    brake = brake_of(halt("app==1"))
    brake.learn(APP_1)
    brake.learn(Subject("app", "1", B))
    assert brake.level(Subject("other", "9", A)) == 4
    assert brake.level(Subject("other", "9", B)) == 4


def test_contents_that_the_signer_resolved_are_denied_before_the_release_is_known() -> None:
    brake = brake_of(halt("app==1", contents=(A,)))
    assert brake.level(Subject("other", "9", A)) == 4


@pytest.mark.parametrize("text", ["app", "digest:" + B.hex()])
def test_only_a_release_halt_denies_by_learned_content(text: str) -> None:
    brake = brake_of(halt(text, contents=(A,)))
    brake.learn(APP_1)
    assert brake.level(Subject("other", "9", A)) == 0


def test_a_lifted_halt_denies_neither_its_name_nor_its_bytes() -> None:
    brake = brake_of(halt("app==1"))
    brake.learn(APP_1)
    brake.set_halts([])
    assert brake.level(APP_1) == 0
    assert brake.level(Subject("app", "2", A)) == 0
    assert brake.halts == ()


def test_the_highest_level_in_force_counts() -> None:
    low, high, elsewhere = halt("everything", 1), halt("app==1", 5), halt("other", 6)
    brake = brake_of(low, high, elsewhere)
    assert brake.level(APP_1) == 5
    assert brake.level(APP_2) == 1
    assert brake.halts_on(APP_1) == [low, high]
    assert brake.halts == (low, high, elsewhere)


@pytest.mark.parametrize("level", range(7))
def test_a_gate_is_shut_at_its_level_and_above(level: int) -> None:
    brake = brake_of(halt("app==1", level)) if level else Brake()
    shut = [gate for gate in Gate if not brake.permits(gate, APP_1)]
    assert shut == [gate for gate in Gate if gate <= level]


def test_the_gates_stand_at_the_levels_that_deny_them() -> None:
    assert [(gate.name, gate.value) for gate in Gate] == [
        ("SERVE", 1),
        ("FETCH", 2),
        ("INSTALL", 3),
        ("ACTIVATE", 4),
        ("KEEP", 5),
        ("RUN", 6),
    ]


def test_a_brake_that_holds_nothing_permits_everything() -> None:
    brake = Brake()
    assert all(brake.permits(gate, APP_1) for gate in Gate)
    assert brake.halts_on(APP_1) == []

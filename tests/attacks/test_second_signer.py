"""Whoever signs second is shown what the order is about, by its signed bytes; or signs nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from firedoor.runtime.keys.key_files import read_key_file
from tests.attacks.ground import Ground, Said, assert_one_sentence, firedoor, ground, liar

pytestmark = pytest.mark.slow

SCOPE, REASON = "app==1.0", "it eats disks"
NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        made.publish("app", "1.0")
        yield made


@pytest.fixture(scope="module")
def halt(fleet: Ground) -> str:
    return fleet.halt(SCOPE, 6, REASON)


def sign(fleet: Ground, number: int, *words: object, to: str = "", role: str = "resume") -> Said:
    """One signer's turn with words such as `resume ID --reason R --sign-only FILE`."""
    at = ("--to", to or fleet.origin.address)
    return firedoor(*words, "--key", fleet.key(f"{role}-{number}"), *at)


def part_of(fleet: Ground, folder: Path, *words: object, role: str = "resume") -> Path:
    """What the first signer hands on."""
    part = folder / "part"
    said = sign(fleet, 1, *words, "--reason", "all is well", "--sign-only", part, role=role)
    assert said.code == 0, said.err
    return part


def combine(
    fleet: Ground, kind: str, part: Path, *more: object, to: str = "", role: str = "resume"
) -> tuple[Said, Path]:
    """The second signer's turn, and the file that it writes."""
    whole = part.with_name("whole")
    words = (kind, "--combine", part, "--sign-only", whole, *more)
    return sign(fleet, 2, *words, to=to, role=role), whole


def assert_shows_the_halt(said: Said) -> None:
    assert SCOPE in said.out
    assert "level 6" in said.out
    assert REASON in said.out


def test_the_second_signer_is_shown_what_the_halt_says(
    fleet: Ground, halt: str, tmp_path: Path
) -> None:
    said, whole = combine(fleet, "resume", part_of(fleet, tmp_path, "resume", halt))
    assert said.code == 0
    assert whole.exists()
    assert_shows_the_halt(said)


def test_whoever_types_the_beginning_of_an_id_is_shown_what_the_halt_says(
    fleet: Ground, halt: str, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    words = ("resume", halt[:12], "--reason", "all is well", "--sign-only", part)
    said = sign(fleet, 1, *words)
    assert said.code == 0
    assert_shows_the_halt(said)


def test_without_the_record_the_second_signer_signs_nothing(
    fleet: Ground, halt: str, tmp_path: Path
) -> None:
    part = part_of(fleet, tmp_path, "resume", halt)
    said, whole = combine(fleet, "resume", part, to=NOWHERE)
    assert_one_sentence(said)
    assert not whole.exists()


def test_who_wants_to_sign_blind_has_to_say_so(fleet: Ground, halt: str, tmp_path: Path) -> None:
    part = part_of(fleet, tmp_path, "resume", halt)
    said, whole = combine(fleet, "resume", part, "--blind", to=NOWHERE)
    assert said.code == 0, said.err
    assert whole.exists()


def test_an_id_that_no_record_has_is_not_signed_for(fleet: Ground, tmp_path: Path) -> None:
    # The first signer may have been somebody who knows why; the second cannot.
    part = tmp_path / "part"
    words = ("resume", "cd" * 32, "--reason", "all is well", "--sign-only", part)
    said = sign(fleet, 1, *words)
    if said.code != 0:
        said = sign(fleet, 1, *words, "--blind")
        assert said.code == 0
    said, whole = combine(fleet, "resume", part)
    assert_one_sentence(said)
    assert not whole.exists()


def test_a_peer_s_status_alone_makes_nobody_sign(fleet: Ground, halt: str, tmp_path: Path) -> None:
    # It names what it likes under the beginning that was typed, and has no record of it.
    row = {"id": "abcd" + "0" * 60, "kind": "halt", "scope": "other==1", "level": 4}
    row |= {"reason": "harmless", "is_in_force": True, "is_named": True, "issued_at": 0}
    status = {"role": "mirror", "id": "0" * 32, "site": "x", "orders": [row], "releases": []}
    part = tmp_path / "part"
    with liar(fleet.fleet / "origin" / "identity.key", {}) as peer:
        peer.answers["/v1/status"] = json.dumps(status).encode()
        words = ("resume", "abcd", "--reason", "all is well", "--sign-only", part)
        said = sign(fleet, 1, *words, to=peer.address)
    assert_one_sentence(said)
    assert not part.exists()


def test_the_second_signer_of_a_pass_is_shown_the_release(fleet: Ground, tmp_path: Path) -> None:
    part = part_of(fleet, tmp_path, "critical-fix", SCOPE, role="promote")
    said, _ = combine(fleet, "critical-fix", part, role="promote")
    assert said.code == 0
    assert "app" in said.out
    assert "1.0" in said.out


def test_the_second_signer_of_a_revocation_is_shown_the_orders_that_survive(
    fleet: Ground, halt: str, tmp_path: Path
) -> None:
    keyid = read_key_file(fleet.key("halt-1"), str).keyid
    part = part_of(fleet, tmp_path, "revoke", keyid, "--keep", halt)
    said, _ = combine(fleet, "revoke", part)
    assert said.code == 0
    assert_shows_the_halt(said)


def test_without_their_records_nobody_keeps_orders_of_a_revoked_key(
    fleet: Ground, halt: str, tmp_path: Path
) -> None:
    keyid = read_key_file(fleet.key("halt-1"), str).keyid
    part = part_of(fleet, tmp_path, "revoke", keyid, "--keep", halt)
    said, whole = combine(fleet, "revoke", part, to=NOWHERE)
    assert_one_sentence(said)
    assert not whole.exists()


def test_the_second_signer_of_a_lifted_ban_is_shown_whose_ban_it_was(
    fleet: Ground, tmp_path: Path
) -> None:
    machine = "e" * 32
    first = tmp_path / "ban"
    words = ("ban", machine, "--reason", "it was stolen")
    assert sign(fleet, 1, *words, "--sign-only", first).code == 0
    said = sign(fleet, 2, "ban", "--combine", first)
    assert said.code == 0, said.err
    ban = said.out.split("signed ")[1][:64]
    said, _ = combine(fleet, "resume", part_of(fleet, tmp_path, "resume", ban))
    assert said.code == 0
    assert machine in said.out
    assert "it was stolen" in said.out

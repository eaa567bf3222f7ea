"""What the commands refuse before they ask anybody, and with which exit code."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firedoor import __version__
from firedoor.cli import main, status
from firedoor.cli.client import key_opening, order_delivery, peer_search, requests
from firedoor.cli.client.origin import chosen_key
from firedoor.cli.client.peer_status import PeerStatus, status_of
from firedoor.cli.fleet import enrolment
from firedoor.cli.orders import halt, resume
from firedoor.cli.orders.cosigning import SigningSession
from firedoor.cli.releases import publish
from firedoor.errors import Denied, FiredoorError, Malformed, Unavailable, Untrusted
from firedoor.halt.envelope import Envelope
from firedoor.halt.order import ResumePayload, read_order
from firedoor.identity import Role
from firedoor.runtime.keys.authority import make_authority
from firedoor.runtime.keys.fleet_folder import fleet_facts
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import peer_of_certificate
from firedoor.runtime.metadata.trust_client import TrustClient, fleet_of
from firedoor.trust.keys import Authority
from firedoor.units import UnixTime
from firedoor.wire.codec import decode, encode

HALT_ID = "ab" * 32


def publisher(fleet: Path) -> KeyFile:
    """The key that signs releases."""
    return read_key_file(fleet / "keys" / "releases-main-1.key", str)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "fleet"
    assert run("init", folder, "--origin", "127.0.0.1:1", "--no-passphrase") == 0
    return folder


def run(*words: object) -> int:
    """One command in this process; its exit code."""
    old = sys.argv
    sys.argv = ["firedoor", *map(str, words)]
    try:
        main.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = old
    return 0


def authority(fleet: Path, folder: Path) -> Authority:
    """The keys of a fleet as an endpoint trusts them."""
    root = (fleet / "root.json").read_bytes()

    def fetch(name: str, limit: int) -> bytes:
        path = fleet / "origin" / "metadata" / name
        if not path.exists():
            raise Unavailable(name, why="not there")
        return path.read_bytes()[:limit]

    client = TrustClient(folder, fleet_of(root), fetch, root)
    client.refresh()
    return client.authority(UnixTime(0))


# --- the program -----------------------------------------------------------------------------


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", ["attestation", "certificate"])
def test_the_attestation_answers_to_its_name_of_0_1_too(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    assert "verify" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["nonsense"], ["halt"], ["halt", "app", "--reason", "r", "--level", "x"], ["enrol"]]
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    assert run(*words) == 2


def test_there_is_no_level_8(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = fleet / "keys" / "halt-1.key"
    assert run("halt", "app==1", "--reason", "r", "--level", "8", "--key", key) == 2
    assert "less than or equal to 7" in capsys.readouterr().err


def test_a_halt_of_everything_is_not_signed_before_the_word_was_typed(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = fleet / "keys" / "halt-1.key"
    words = ("halt", "everything", "--reason", "r", "--key", key, "--to", "127.0.0.1:1")
    assert run(*words) == 1
    said = capsys.readouterr()
    assert "--confirm everything" in said.err
    assert "signed" not in said.out
    assert run(*words, "--confirm", "everything") == 1
    assert "signed" in capsys.readouterr().out


def test_an_error_is_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", "--fleet", tmp_path / "nowhere") == 1
    said = capsys.readouterr().err
    assert said.startswith("firedoor: ")
    assert said.count("\n") == 1


def test_help_imports_neither_http_nor_metadata() -> None:
    code = (
        "import sys; from firedoor.cli import main; "
        "print(sorted({'aiohttp', 'tuf', 'zeroconf', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


# --- init ------------------------------------------------------------------------------------


def test_init_makes_every_key_with_a_certificate_inside(fleet: Path) -> None:
    names = sorted(path.name for path in (fleet / "keys").iterdir())
    assert "root-1.key" in names
    assert "operator.key" in names
    for name in names:
        path = fleet / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        key = read_key_file(path, str)
        peer = peer_of_certificate(key.certificate.encode(), UnixTime(0))
        assert (peer.role, key.origin) == (Role.OPERATOR, "127.0.0.1:1")


def test_init_makes_metadata_that_an_endpoint_trusts(fleet: Path, tmp_path: Path) -> None:
    found = authority(fleet, tmp_path)
    assert found.fleet == fleet_facts(fleet)["fleet"]
    thresholds = {role: keys.threshold for role, keys in found.roles.items()}
    expected = {"halt": 1, "resume": 2, "beacon": 1, "releases/main": 1}
    assert expected.items() <= thresholds.items()


def test_init_into_an_existing_folder_is_refused_and_changes_nothing(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()}
    assert run("init", fleet, "--no-passphrase") == 1
    assert "does not exist yet" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()} == before


def test_init_says_aloud_that_keys_are_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", tmp_path / "fleet", "--no-passphrase") == 0
    assert "NOT sealed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--root-keys", "1", "--root-threshold", "2"],
        ["--resume-threshold", "0"],
        ["--origin", "no-port"],
        ["--passphrase-file", "/dev/null"],
    ],
)
def test_init_refuses_what_cannot_be_and_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    assert run("init", tmp_path / "fleet", "--no-passphrase", *words) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sealed_keys_open_with_their_passphrase_only(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("correct horse\n")
    counts = ["--halt-keys", "1", "--resume-keys", "1", "--resume-threshold", "1"]
    assert run("init", tmp_path / "fleet", "--passphrase-file", words, *counts) == 0
    path = tmp_path / "fleet" / "keys" / "halt-1.key"
    assert key_opening.open_key(path, words).role == "halt"
    assert read_key_file(path, lambda: "correct horse").secret not in path.read_text()
    words.write_text("battery staple\n")
    with pytest.raises(Untrusted, match="passphrase"):
        key_opening.open_key(path, words)


def test_a_passphrase_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        key_opening.passphrase_of(tmp_path / "nowhere")()


# --- token and enrol -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "junk", "e30=", "\N{SNOWMAN}"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Malformed, match="token"):
        enrolment.enrol(text, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_state_folder_that_has_an_identity_is_not_enrolled_again(tmp_path: Path) -> None:
    table = {"fleet": "0" * 32, "address": "127.0.0.1:1", "ca": "0", "secret": "s"}
    token = base64.urlsafe_b64encode(json.dumps(table).encode()).decode()
    (tmp_path / "identity.key").write_text("kept")
    with pytest.raises(Malformed, match="identity"):
        enrolment.enrol(token, tmp_path)
    assert (tmp_path / "identity.key").read_text() == "kept"


def test_a_listener_with_another_ca_is_not_given_the_secret() -> None:
    token = enrolment.Token("0" * 32, "127.0.0.1:1", "0" * 64, "secret")
    for ca in (make_authority("other", b"\1" * 32), b"junk"):
        with pytest.raises(Untrusted, match="enrolment listener"):
            enrolment._check_ca(ca, token)


# --- publish ---------------------------------------------------------------------------------


def wish(path: Path, **changes: Any) -> publish.PublishRequest:
    fields: dict[str, Any] = {
        "product": "app",
        "version": "1.0",
        "path": path,
        "handler": "files",
        "checks": (),
        "validators": (),
        "is_critical_fix": False,
    }
    return publish.PublishRequest(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"product": "everything"},
        {"product": "../up"},
        {"version": "1/2"},
        {"handler": "module"},
    ],
)
def test_names_that_no_release_may_have_are_refused(
    fleet: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    with pytest.raises(Malformed):
        publish.publish_release(publisher(fleet), wish(tmp_path, **changes))


def test_a_validator_that_fails_stops_the_publish(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    ran = tmp_path / "ran"
    validators = (f"touch {ran}", f"{sys.executable} -c 'import sys; sys.exit(3)'")
    with pytest.raises(Malformed, match="exit code 0, got 3"):
        publish.publish_release(publisher(fleet), wish(tmp_path, validators=validators))
    assert ran.exists()


def test_a_validator_sees_the_content_by_path_and_by_environment(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    publish._validate("test -f {path}/file", tmp_path)
    publish._validate("sh -c 'test -f \"$FIREDOOR_CONTENT\"/file'", tmp_path)


def test_a_validator_that_does_not_exist_stops_the_publish(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="validator"):
        publish._validate("no-such-program-at-all", tmp_path)


def test_a_folder_without_a_publishers_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="releases"):
        chosen_key(tmp_path, None, "releases-*.key", None)


def test_of_two_publishers_keys_one_must_be_named(fleet: Path) -> None:
    with pytest.raises(Malformed, match=r"halt-1\.key, halt-2\.key"):
        chosen_key(fleet, None, "halt-*.key", None)


def test_a_key_of_another_role_cannot_publish(fleet: Path, tmp_path: Path) -> None:
    key = read_key_file(fleet / "keys" / "operator.key", str)
    with pytest.raises(Malformed, match="publisher"):
        publish.publish_release(key, wish(tmp_path))


@pytest.mark.parametrize("command", ["", "sh -c 'unclosed"])
def test_a_check_that_no_endpoint_could_run_is_not_published(
    fleet: Path, tmp_path: Path, command: str
) -> None:
    with pytest.raises(Malformed, match="--check"):
        publish.publish_release(publisher(fleet), wish(tmp_path, checks=(command,)))


# --- halt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "level"), [("app==", 4), ("../x", 4), ("app", 0), ("app", 5), ("everything", 6)]
)
def test_a_halt_that_cannot_be_is_refused_before_it_is_signed(
    fleet: Path, scope: str, level: int
) -> None:
    key = fleet / "keys" / "halt-1.key"
    with pytest.raises(Malformed):
        halt.halt_scope(halt.HaltRequest(scope, level, "why"), ([key], None), to=[], wait_s=1)


def test_a_key_of_another_role_cannot_halt(fleet: Path) -> None:
    key = fleet / "keys" / "resume-1.key"
    with pytest.raises(Malformed, match="role halt"):
        halt.halt_scope(halt.HaltRequest("app", 4, "why"), ([key], None), to=[], wait_s=1)


def test_a_halt_that_nobody_recorded_is_exit_code_1(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = fleet / "keys" / "halt-1.key"
    # Port 1 of loopback: nobody listens there.
    assert run("halt", "app==1", "--reason", "r", "--key", key, "--wait", "1") == 1
    said = capsys.readouterr()
    assert "signed" in said.out
    assert "nobody has it" in said.err


def test_the_halt_that_is_signed_is_the_one_that_was_typed(fleet: Path, tmp_path: Path) -> None:
    key = read_key_file(fleet / "keys" / "halt-1.key", str)
    stop = halt.HaltRequest("app==1.0", 5, "it crashes")
    order_id, record = halt._sign([key], stop)
    order = read_order(record, authority(fleet, tmp_path))
    assert order.id == order_id
    assert (order.reason, getattr(order, "level", 0)) == ("it crashes", 5)


# --- resume ----------------------------------------------------------------------------------


def sign_part(
    fleet: Path, number: int, halts: tuple[str, ...], combine: tuple[Path, ...], part: Path
) -> None:
    """One signer's turn, written to `part`."""
    key = fleet / "keys" / f"resume-{number}.key"
    # Nobody is reachable here; tests/attacks/test_second_signer.py has what is shown otherwise.
    gathering = SigningSession((key,), None, combine, part, is_blind=True)
    resume.lift_halts(asked(*halts, reason="fixed" if halts else ""), gathering)


def asked(*halts: str, reason: str = "r") -> resume.OrderRequest:
    return resume.OrderRequest(halts, reason, ("127.0.0.1:1",), 1.0)


def test_parts_signed_apart_make_one_whole_resume(fleet: Path, tmp_path: Path) -> None:
    first, whole = tmp_path / "first", tmp_path / "whole"
    sign_part(fleet, 1, (HALT_ID,), (), first)
    trusted = authority(fleet, tmp_path / "trust")
    with pytest.raises(Untrusted, match="2 valid"):
        read_order(first.read_bytes(), trusted)
    sign_part(fleet, 2, (), (first,), whole)
    order = read_order(whole.read_bytes(), trusted)
    assert getattr(order, "halts", None) == frozenset({bytes.fromhex(HALT_ID)})
    assert len(order.signers) == 2


def test_one_key_twice_is_one_signature(fleet: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    sign_part(fleet, 1, (HALT_ID,), (), first)
    sign_part(fleet, 1, (), (first,), again)
    assert len(decode(Envelope, again.read_bytes(), what="part", limit=2000).signatures) == 1


def test_parts_of_different_resumes_are_refused(fleet: Path, tmp_path: Path) -> None:
    parts = (tmp_path / "one", tmp_path / "two")
    for part in parts:
        sign_part(fleet, 1, (HALT_ID,), (), part)
    with pytest.raises(Malformed, match="one resume"):
        sign_part(fleet, 2, (), parts, tmp_path / "whole")


def test_a_part_of_another_kind_is_refused(fleet: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(encode(Envelope("halt", b"", ())))
    with pytest.raises(Malformed):
        sign_part(fleet, 1, (), (part,), tmp_path / "whole")


def test_a_part_that_is_not_there_is_said(fleet: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        sign_part(fleet, 1, (), (tmp_path / "nowhere",), tmp_path / "whole")


@pytest.mark.parametrize("key", ["halt-1", "operator"])
def test_a_key_of_another_role_cannot_resume(fleet: Path, key: str) -> None:
    gathering = SigningSession((fleet / "keys" / f"{key}.key",), None, (), None)
    with pytest.raises(Malformed, match="role resume"):
        resume.lift_halts(asked(HALT_ID), gathering)


def test_a_resume_needs_a_key_and_a_halt(fleet: Path, tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="key"):
        resume.lift_halts(asked(HALT_ID), SigningSession((), None, (), None))
    with pytest.raises(Malformed, match="what it is about"):
        sign_part(fleet, 1, (), (), tmp_path / "part")


@pytest.mark.parametrize(("text", "known"), [("ab", ["cd"]), ("a", ["ab", "ac"]), ("a", [])])
def test_a_short_id_must_begin_exactly_one_halt(text: str, known: list[str]) -> None:
    with pytest.raises(Malformed, match="exactly one"):
        resume._whole(text, known)


def test_a_resume_names_each_halt(fleet: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    sign_part(fleet, 1, (HALT_ID, "cd" * 32), (), part)
    envelope = decode(Envelope, part.read_bytes(), what="part", limit=2000)
    payload = decode(ResumePayload, envelope.payload, what="payload", limit=2000)
    assert [each.hex() for each in payload.halts] == [HALT_ID, "cd" * 32]


# --- status and peers ------------------------------------------------------------------------


def table(**changes: Any) -> dict[str, Any]:
    """A mirror's status with one release and one endpoint that has it."""
    product = {"product": "app", "version": "1.0", "phase": "active", "detail": ""}
    endpoint = {"id": "e" * 32, "site": "branch", "seen_at": 100, "orders": [HALT_ID]}
    endpoint["is_connected"] = True
    base = {
        "is_reconciled": True,
        "is_trust_fresh": True,
        "role": "mirror",
        "id": "f" * 32,
        "site": "headquarters",
        "orders": [],
        "releases": [{"product": "app", "version": "1.0", "level": 0, "counter": 1}],
        "endpoints": [endpoint | {"products": [product]}],
    }
    return base | changes


def seen(**changes: Any) -> PeerStatus:
    return status_of(table(**changes))


def row_of(now: float = 101, **changes: Any) -> status.Row:
    (row,) = status.rows_of(seen(**changes), now)
    return row


def endpoint(**changes: Any) -> list[dict[str, Any]]:
    return [table()["endpoints"][0] | changes]


def test_status_says_who_is_current() -> None:
    assert "nothing is halted" in status.lines_of(seen())
    assert row_of() == status.Row("branch", "e" * 12, "app", "1.0", "active", "")


def test_status_says_who_is_behind() -> None:
    newer = {"product": "app", "version": "1.1", "level": 0, "counter": 2}
    assert row_of(releases=[*table()["releases"], newer]).mark == "behind"


def test_nobody_is_behind_a_halted_release() -> None:
    bad = {"product": "app", "version": "1.1", "level": 4, "counter": 2}
    assert row_of(releases=[*table()["releases"], bad]).mark == ""
    assert row_of(releases=[bad]).mark == ""


def test_status_says_who_is_silent_gone_or_was_never_heard() -> None:
    assert row_of(now=100 + status.SILENT_S + 1).mark == "SILENT"
    assert row_of(endpoints=endpoint(is_connected=False)).mark == "GONE"
    assert row_of(endpoints=endpoint(seen_at=0, products=[])).mark == "NEVER HEARD"


def test_what_is_wrong_comes_first() -> None:
    well, gone = endpoint(id="0" * 32), endpoint(id="f" * 32, is_connected=False)
    rows = status.rows_of(seen(endpoints=[*well, *gone]), now=101)
    assert [row.mark for row in rows] == ["GONE", ""]


def test_an_agents_own_status_shows_its_products() -> None:
    products = table()["endpoints"][0]["products"]
    assert row_of(role="agent", products=products).product == "app"


def test_status_says_what_is_halted_and_how_far_it_has_come() -> None:
    row = {"id": HALT_ID, "kind": "halt", "scope": "app==1.0", "level": 4, "reason": "it crashes"}
    for is_named, words in ((True, ", committed by"), (False, "NOT yet committed")):
        orders = [row | {"is_named": is_named, "is_in_force": True}]
        lines = status.lines_of(seen(orders=orders))
        assert "HALTED app==1.0 at level 4: it crashes" in lines
        assert any(words in line and "1 of 1 endpoint(s)" in line for line in lines)


def test_a_peer_that_has_not_synced_says_so() -> None:
    assert any("NOT synced" in line for line in status.lines_of(seen(is_reconciled=False)))
    assert any("past its dates" in line for line in status.lines_of(seen(is_trust_fresh=False)))


def test_no_reason_and_no_detail_can_forge_a_line() -> None:
    forged = "a\nHALTED everything\x1b[31m"
    order = {"id": HALT_ID, "kind": "halt", "scope": "app", "level": 4, "reason": forged}
    lines = status.lines_of(seen(orders=[order | {"is_named": True, "is_in_force": True}]))
    product = {"product": "app", "version": "1.0", "phase": "idle", "detail": forged}
    shown = [*lines, row_of(endpoints=endpoint(products=[product])).state]
    assert not any("\n" in line or "\x1b" in line for line in shown)


@pytest.mark.parametrize(
    "ask",
    [
        lambda key, client: peer_search.peers_to_try(client, key, ["nonsense"], 1),
        lambda key, client: peer_search.peers_to_try(client, key, [], 1),
    ],
)
def test_without_an_address_there_is_a_sentence(tmp_path: Path, ask: Callable[[Any], Any]) -> None:
    assert run("init", tmp_path / "fleet", "--no-passphrase") == 0
    key = read_key_file(tmp_path / "fleet" / "keys" / "halt-1.key", str)
    with pytest.raises(FiredoorError, match="HOST:PORT"):
        requests.with_client(key, partial(ask, key))


def test_named_addresses_come_before_all_others(fleet: Path) -> None:
    key = read_key_file(fleet / "keys" / "halt-1.key", str)

    def asked(*to: str) -> list[tuple[str, int]]:
        return requests.with_client(
            key, lambda client: peer_search.peers_to_try(client, key, [*to], 1)
        )

    assert asked("h:1", "[::1]:2") == [("h", 1), ("::1", 2)]
    assert asked() == [("127.0.0.1", 1)]


def test_status_says_what_bound_holds_and_what_was_drilled() -> None:
    drill = {"id": "cd", "kind": "drill", "scope": "app==1", "level": 6, "issued_at": 1000}
    old = drill | {"level": 7, "issued_at": 1000 - 31 * 86400}
    ban = {"kind": "ban", "peer": "0f" * 16, "id": "ab"}
    lease = {"start_s": 30.0, "move_s": 3600.0}
    shown = seen(orders=[drill, old, ban], lease=lease)
    assert any("30 s after the origin" in line for line in status.bound_of(shown))
    assert any("0f0f0f0f0f0f" in line for line in status.bound_of(shown))
    lines = status.drills_of(shown, 2000.0)
    assert lines[0] == "drilled in the last 30 days: 1 of 41 cells"
    assert lines[1].split() == ["release", "-", "-", "-", "-", "-", "6", "-"]


# --- keys of programs and mirrors -----------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "AB" * 32, "zz" * 32, "../" + "a" * 61])
def test_a_public_key_that_is_none_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(Malformed, match="--with: wanted a public key, 64 hex digits"):
        key_opening.checked_public("--with", text)


def test_a_controller_key_takes_an_operator_s_identity_and_a_new_file(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = fleet / "keys" / "operator.key"
    path = tmp_path / "watcher.key"
    assert run("keys", "controller", path, "--key", fleet / "keys" / "halt-1.key") == 1
    assert "wanted an operator's key file, got role halt" in capsys.readouterr().err
    assert not path.exists()
    assert run("keys", "controller", path, "--key", operator) == 0
    assert capsys.readouterr().out.strip() == read_key_file(path, str).public
    before = path.read_bytes()
    assert run("keys", "controller", path, "--key", operator) == 1
    assert "wanted a new file, got one that exists" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_only_a_mirror_gets_a_beacon_key(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "identity.key").write_bytes((fleet / "keys" / "operator.key").read_bytes())
    assert run("keys", "beacon", "--state", tmp_path) == 1
    assert "wanted a mirror's state folder, got role operator" in capsys.readouterr().err
    assert not (tmp_path / "beacon.key").exists()
    (tmp_path / "identity.key").unlink()
    assert run("keys", "beacon", "--state", tmp_path) == 1
    assert "identity.key" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["halt", "root", "releases/main", "snapshot"])
def test_keys_from_elsewhere_are_for_the_beacon_role_alone(
    fleet: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keys", "rotate", role, "--fleet", fleet, "--with", "ab" * 32) == 2
    assert "--with is for beacon" in capsys.readouterr().err


# --- what the halt command says of its peers ------------------------------------------------------


def test_one_peer_that_records_is_enough_whatever_the_others_say() -> None:
    progress = order_delivery.Progress()
    progress.obeyed("10.0.0.1:7443")
    progress.recorded("10.0.0.1:7443")
    assert not progress.is_done
    progress.committed()
    assert progress.is_done


def test_an_order_that_is_obeyed_and_not_recorded_points_at_the_disk() -> None:
    progress = order_delivery.Progress(obeyed_by=["10.0.0.1:7443"])
    error = order_delivery._failure(progress, [Unavailable("10.0.0.2:7443", why="no answer")])
    assert isinstance(error, Unavailable)
    assert "in force, but no peer has recorded it yet: 10.0.0.1:7443 obeys it" in str(error)


def test_where_every_peer_refuses_it_the_refusals_are_said_once_each() -> None:
    ends: list[FiredoorError] = [Denied("it is forged"), Denied("it is forged"), Denied("no room")]
    error = order_delivery._failure(order_delivery.Progress(), ends)
    assert isinstance(error, Denied)
    assert str(error) == "it is forged; no room"


def test_where_some_refuse_and_some_do_not_answer_the_order_is_said_to_be_signed() -> None:
    ends: list[FiredoorError] = [Denied("no room"), Unavailable("10.0.0.2:1", why="no answer")]
    error = order_delivery._failure(order_delivery.Progress(), ends)
    assert isinstance(error, Unavailable)
    assert "the order is signed, but nobody has it" in str(error)
    assert "no room; 10.0.0.2:1: no answer" in str(error)

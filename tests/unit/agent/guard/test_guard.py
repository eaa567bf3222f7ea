"""The boot guard: when it steps back, where to, and that in doubt it changes nothing."""

import ast
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from agent import __main__ as program
from agent.guard import guard
from agent.guard import records as guard_records
from agent.guard.records import DoubtError, read_log, unpack
from agent.install.guard_results import GuardResults
from agent.install.journal import Journal
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload, ResumePayload, RevokePayload
from firedoor.identity import FleetId
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.storage.order_log import ACTED, FORGOTTEN, ORDER, OrderLog
from firedoor.trust.keys import key_of
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.guard_reading import InMemory, read_orders
from tests.unit.origin_bench import Bench, release

pytestmark = pytest.mark.slow

FLEET = "0a" * 16
HALT, OTHER, RESUME = (bytes([number]) * 32 for number in (1, 2, 3))

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300)
    | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner),
    max_leaves=20,
)  # fmt: skip


# --- it stands alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", [guard, guard_records])
def test_the_guard_imports_the_standard_library_alone(module: object) -> None:
    path = Path(str(module.__file__))  # type: ignore[attr-defined]  # every module has one
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"agent.guard.records", "agent.guard.files"}


# --- it reads what the agent writes -------------------------------------------------------------


@given(values)
def test_it_reads_msgpack_as_the_library_does(value: object) -> None:
    try:
        read = unpack(msgpack.packb(value))
    except DoubtError:
        return  # Deeper than any order.
    assert read == value


@given(st.binary(max_size=80))
def test_junk_is_doubt_and_nothing_worse(data: bytes) -> None:
    try:
        unpack(data)
    except (DoubtError, UnicodeDecodeError, TypeError, ValueError):
        return


def test_a_record_with_a_tail_is_doubted() -> None:
    assert unpack(b"\x81\xa1a\x01") == {"a": 1}
    with pytest.raises(DoubtError, match="tail"):
        unpack(b"\x81\xa1a\x01\x00")


def test_a_log_that_has_become_shorter_meanwhile_ends_where_it_ends(tmp_path: Path) -> None:
    log = InMemory(log_of(tmp_path, a_halt()))
    whole = len(log.data.rstrip(b"\0"))
    log.data = log.data[: whole - 1]
    assert read_log(FLEET, log).in_force() == []


def sealed(kind: str, payload: object, *seeds: bytes) -> tuple[bytes, bytes]:
    keys = {key_of(seed).keyid: seed for seed in seeds}
    return seal(kind, payload, fleet=FleetId(FLEET), keys=keys)


def a_halt(scope: str = "app==2", level: int = 7, *seeds: bytes) -> tuple[bytes, bytes]:
    payload = HaltPayload(1, os.urandom(16), scope, level, 0, "")
    return sealed("halt", payload, *(seeds or (HALT,)))


def log_of(tmp_path: Path, *frames: tuple[bytes, bytes]) -> bytes:
    log = OrderLog(tmp_path / "orders.log")
    for kind, record in frames:
        log.append_all([(kind, record)])
    log.close()
    return (tmp_path / "orders.log").read_bytes()


def test_a_halt_in_the_log_is_in_force_until_a_resume_has_acted(tmp_path: Path) -> None:
    order, record = a_halt()
    lift = sealed("resume", ResumePayload(1, bytes(16), (order,), 0, ""), RESUME)
    data = log_of(tmp_path, (ORDER, record), (ORDER, lift[1]))
    assert [each.id for each in read_orders(FLEET, data, ()).in_force()] == [order]
    data = log_of(tmp_path, (ACTED, lift[0]))
    assert read_orders(FLEET, data, ()).in_force() == []


def test_a_tombstone_is_as_good_as_the_log() -> None:
    order, record = a_halt()
    [halt] = read_orders(FLEET, b"", [record]).in_force()
    assert (halt.id, halt.scope, halt.level) == (order, "app==2", 7)


def test_a_revoked_key_s_halt_counts_no_more(tmp_path: Path) -> None:
    order, record = a_halt("app==2", 7, HALT, OTHER)
    gone = RevokePayload(1, bytes(16), key_of(HALT).keyid, (), 0, "")
    turned = sealed("revoke", gone, RESUME)
    data = log_of(tmp_path, (ORDER, record), (ORDER, turned[1]), (ACTED, turned[0]))
    [halt] = read_orders(FLEET, data, ()).in_force()
    assert (halt.id, halt.keyids) == (order, frozenset({key_of(OTHER).keyid}))


def test_a_torn_end_of_the_log_hides_nothing_before_it(tmp_path: Path) -> None:
    order, record = a_halt()
    data = log_of(tmp_path, (ORDER, record))
    for size in range(len(data), len(data) + 40):
        torn = data + data[: size - len(data)]
        assert [each.id for each in read_orders(FLEET, torn, ()).in_force()] == [order]


# --- a real endpoint ----------------------------------------------------------------------------


def installed(bench: Bench, folder: Path, *versions: str) -> Endpoint:
    """An endpoint on which these versions have run, the last one now."""
    endpoint = Endpoint(bench, folder)
    for version in versions:
        endpoint.publish(version)

        async def story(one: Endpoint, wanted: str = version) -> None:
            await one.until_runs(wanted)

        endpoint.run(story)
    return endpoint


@pytest.fixture
def home(bench: Bench, tmp_path: Path) -> Path:
    """The folder of an endpoint that ran 1.0 and runs 2.0; `agent.toml` in it."""
    folder = tmp_path / "endpoint"
    installed(bench, folder, "1.0", "2.0")
    # As an agent's own folder has it: one state folder.
    shutil.copy(folder / "journal.db", folder / "state" / "journal.db")
    (folder / "agent.toml").write_text(
        f'fleet_root = "{bench.fleet / "root.json"}"\n'
        f'state = "{folder / "state"}"\nsite = "branch"\n'
        f'[products.{PRODUCT}]\nroot = "{folder / "root"}"\n',
        "utf-8",
    )
    for path in (folder, folder / "state", folder / "root"):
        path.chmod(0o755)
    return folder


def run(home: Path, *words: str) -> int:
    return guard.main(["--config", str(home / "agent.toml"), *words])


def start(home: Path) -> int:
    """A managed program is about to start."""
    return run(home, "--product", PRODUCT)


def current(home: Path) -> str:
    return (home / "root" / "current").readlink().name.partition("-")[0]


def record_halt(bench: Bench, home: Path, scope: str, level: int) -> None:
    """The agent has recorded a halt and was killed before it did anything."""
    key = read_key_file(bench.fleet / "keys" / "halt-1.key", str)
    payload = HaltPayload(1, os.urandom(16), scope, level, 0, "it boot-loops")
    seeds = {key.keyid: key.signing_seed}
    _, record = seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)
    log = OrderLog(home / "state" / "orders.log")
    log.append_all([(ORDER, record)])
    log.close()


def test_a_good_start_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home) == 0
    assert current(home) == "2.0"
    assert "may start" in capsys.readouterr().out


@pytest.mark.parametrize("scope", [f"{PRODUCT}==2.0", f"{PRODUCT}#2..2"])
def test_a_halt_of_level_7_steps_back_and_puts_the_bad_version_aside(
    bench: Bench, home: Path, scope: str
) -> None:
    record_halt(bench, home, scope, 7)
    run(home)
    assert current(home) == "1.0"
    assert [path.name.partition("-")[0] for path in (home / "root" / "quarantine").iterdir()] == [
        "2.0"
    ]


def test_a_halt_of_the_content_or_of_a_file_steps_back_too(bench: Bench, home: Path) -> None:
    record_halt(bench, home, f"digest:{blake3(b'content of 2.0').hexdigest()}", 7)
    run(home)
    assert current(home) == "1.0"


@pytest.mark.parametrize("level", [4, 5, 6])
def test_a_lower_halt_is_the_agent_s_business(bench: Bench, home: Path, level: int) -> None:
    record_halt(bench, home, f"{PRODUCT}==2.0", level)
    run(home)
    assert current(home) == "2.0"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_halt(bench, home, f"{PRODUCT}==2.0", 7)
    run(home, "--dry-run")
    assert "would step back to 1.0" in capsys.readouterr().out
    assert current(home) == "2.0"
    assert not (home / "state" / "guard.json").exists()


def test_three_starts_that_came_to_nothing_take_a_version_back(home: Path) -> None:
    for _ in range(3):
        start(home)
        assert current(home) == "2.0"
    start(home)
    assert current(home) == "1.0"


def test_a_look_at_boot_is_no_start(home: Path) -> None:
    for _ in range(8):
        run(home)
    assert current(home) == "2.0"


def test_starts_long_after_the_activation_count_for_nothing(home: Path) -> None:
    switch = home / "root" / "current"
    past = time.time() - 3600
    os.utime(switch, (past, past), follow_symlinks=False)
    for _ in range(8):
        start(home)
    assert current(home) == "2.0"


def test_it_never_steps_twice_from_one_activation_nor_below_the_last_good_one(home: Path) -> None:
    for _ in range(12):
        start(home)
    assert current(home) == "1.0"


def test_the_agent_does_not_install_again_what_the_guard_took_back(
    bench: Bench, home: Path
) -> None:
    for _ in range(4):
        start(home)
    assert current(home) == "1.0"
    journal = Journal(home / "state" / "journal.db")
    GuardResults(home / "state" / "guard.json").apply_to(journal)
    bad = read_manifest_content(bench, "2.0")
    assert bad in journal.failed("app")
    journal.close()


def read_manifest_content(bench: Bench, version: str) -> bytes:
    return release(bench.store, version, f"content of {version}".encode()).content


def test_a_link_in_the_state_folder_is_not_followed(bench: Bench, home: Path) -> None:
    victim = home / "victim"
    victim.write_text("precious", "utf-8")
    (home / "state" / "guard.new").symlink_to(victim)
    record_halt(bench, home, f"{PRODUCT}==2.0", 7)
    run(home)
    assert victim.read_text("utf-8") == "precious"
    assert not (home / "state" / "guard.json").is_symlink()
    assert current(home) == "1.0"


@pytest.mark.parametrize(
    "junk", ["[]", "7", '{"app": 3}', '{"app": {"last": 5, "starts": []}}', "{"]
)
def test_a_memory_that_is_junk_ends_nothing(home: Path, junk: str) -> None:
    (home / "state" / "guard.json").write_text(junk, "utf-8")
    assert start(home) == 0
    assert current(home) == "2.0"


def test_a_step_that_was_cut_off_is_taken_at_the_next_start(bench: Bench, home: Path) -> None:
    record_halt(bench, home, f"{PRODUCT}==2.0", 7)
    (home / "root" / "quarantine").symlink_to("/tmp")
    run(home)
    assert current(home) == "2.0"
    (home / "root" / "quarantine").unlink()
    run(home)
    assert current(home) == "1.0"


def test_what_a_compaction_has_left_out_counts_no_more(bench: Bench, home: Path) -> None:
    record_halt(bench, home, f"{PRODUCT}==2.0", 7)
    fleet = sha256((bench.fleet / "root.json").read_bytes()).hexdigest()[:32]
    data = (home / "state" / "orders.log").read_bytes()
    [order] = read_orders(fleet, data, ()).halts
    log = OrderLog(home / "state" / "orders.log")
    log.append_all([(FORGOTTEN, order)])
    log.close()
    run(home)
    assert current(home) == "2.0"


@pytest.mark.parametrize("level", [0, 8])
def test_a_halt_of_a_level_that_there_is_not_is_one_of_everything_at_level_4(
    level: int, tmp_path: Path
) -> None:
    said = asdict(HaltPayload(1, bytes(16), "app==2", 7, 0, "")) | {"level": level}
    record = {
        "kind": "halt",
        "payload": msgpack.packb(said),
        "signatures": [{"keyid": "a", "sig": b""}],
    }
    data = log_of(tmp_path, (ORDER, msgpack.packb(record)))
    [halt] = read_orders(FLEET, data, ()).in_force()
    assert (halt.scope, halt.level) == ("everything", 4)


@pytest.mark.parametrize("scope", ["digest:zz", "app#1..y", "app#0..3", "app#3..2", "planet:mars"])
def test_a_halt_that_is_not_understood_is_one_of_everything_at_level_4(
    scope: str, tmp_path: Path
) -> None:
    payload = HaltPayload(1, bytes(16), scope, 7, 0, "")
    record = sealed("halt", payload, HALT)[1]
    log = OrderLog(tmp_path / "orders.log")
    log.append_all([(ORDER, record)])
    log.close()
    data = (tmp_path / "orders.log").read_bytes()
    [halt] = read_orders(FLEET, data, ()).in_force()
    assert (halt.scope, halt.level) == ("everything", 4)
    # Beside a product it was verified by nobody, and means nothing.
    assert read_orders(FLEET, b"", [record]).in_force() == []


def lose_the_good_version(home: Path) -> None:
    for path in (home / "root" / "versions").iterdir():
        if path.name.startswith("1.0"):
            shutil.rmtree(path)


def lead_elsewhere(home: Path) -> None:
    (home / "root" / "current").unlink()
    (home / "root" / "current").symlink_to("/etc")


Change = Callable[[Path], object]
DOUBTS: dict[str, Change] = {
    "a state folder that others can write": lambda home: (home / "state").chmod(0o777),
    "a root that others can write": lambda home: (home / "root").chmod(0o777),
    "an order log of another user": lambda home: os.chown(home / "state" / "orders.log", 1, 1),
    "a journal that is none": lambda home: (home / "state" / "journal.db").write_bytes(b"junk" * 9),
    "no journal": lambda home: (home / "state" / "journal.db").rename(home / "gone"),
    "nothing to go back to": lose_the_good_version,
    "a switch that leads elsewhere": lead_elsewhere,
}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("change", DOUBTS.values(), ids=DOUBTS)
def test_in_doubt_nothing_is_changed(
    bench: Bench, home: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    record_halt(bench, home, f"{PRODUCT}==2.0", 7)
    change(home)
    before = (home / "root" / "current").readlink()
    assert run(home) == 0
    assert (home / "root" / "current").readlink() == before
    said = capsys.readouterr().out
    assert "doubt" in said or "nothing good" in said


def test_the_program_tells_its_guard_from_a_release_of_that_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(home / "agent.toml")
    for words in (["guard", "--config", config], ["--config", config, "guard"]):
        monkeypatch.setattr(sys, "argv", ["firedoor-agent", *words, "--dry-run"])
        assert program.main() == 0
        assert "may start" in capsys.readouterr().out
    words = ["--config", str(home / "nowhere.toml"), "fetch", "guard", "--out", str(home / "out")]
    monkeypatch.setattr(sys, "argv", ["firedoor-agent", *words])
    assert program.main() == 1
    assert "nowhere.toml" in capsys.readouterr().err

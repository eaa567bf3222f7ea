"""What commands do with names and files that others have made."""

import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from blake3 import blake3

from firedoor.cli.airgap.bundle import Stick
from firedoor.cli.orders.order_file import FORMAT, OrderFile
from firedoor.halt.envelope import Envelope, Signature
from firedoor.identity import FleetId
from firedoor.pieces.manifest import FileEntry, Manifest, content_digest, encode_manifest
from firedoor.wire.codec import encode
from firedoor.wire.stick import MetadataFiles
from tests.attacks.ground import (
    Ground,
    Program,
    Said,
    assert_harmless,
    assert_one_sentence,
    firedoor,
    ground,
    run,
)

pytestmark = pytest.mark.slow

DEEP = b"[" * 5000 + b"]" * 5000

# Records that nobody has signed, before the halt.
JUNK_ORDERS = 4000

# An honest visit takes a second or two.
VISIT_S = 10.0

# Manifests that nobody has signed, and of how many files each.
MANIFESTS = 12
FILES = 100_000

# What an honest visit never takes.
MEMORY_KIB_MAX = 512 << 10

# Runs a command, and writes the most memory that it had resident, in KiB, into a file.
MEASURE = """
import pathlib, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak), "ascii")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        made.publish("kiosk", "1.0")
        yield made


@pytest.fixture(scope="module")
def lonely(fleet: Ground) -> Program:
    """The mirror of an air-gapped site."""
    mirror = fleet.enrolled("mirror", "lonely", lease="air-gapped")
    mirror.start()
    return mirror


@pytest.fixture
def stick(fleet: Ground, tmp_path: Path) -> Path:
    """A stick that has been at the fleet."""
    folder = tmp_path / "stick"
    assert carry(fleet, folder, fleet.origin).code == 0
    return folder


def carry(fleet: Ground, folder: Path, at: Program) -> Said:
    return firedoor("carry", folder, "--key", fleet.key("operator"), "--to", at.address)


def opened(folder: Path) -> Stick:
    return Stick(folder, FleetId((folder / "fleet").read_text("ascii")))


def test_the_file_names_of_a_release_paint_no_terminal(fleet: Ground, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    # The CSI of eight bits: clear the screen, go home; and text that turns round.
    (tree / "a\x9b2J\x9bHnothing is halted").write_text("x", "utf-8")
    (tree / "b\u202egpj.sh").write_text("x", "utf-8")
    said = firedoor("publish", "paint", "1.0", tree, "--key", fleet.key("releases-main-1"))
    if said.code != 0:
        return  # Refused: held off as well.
    shown = firedoor("show", "paint==1.0", "--files", "--key", fleet.key("operator"))
    assert shown.code == 0, shown.err
    assert_harmless(shown.out)


def test_a_deep_root_json_ends_in_one_sentence(fleet: Ground, tmp_path: Path) -> None:
    halt = fleet.halt("kiosk", 1, "test")
    out, root = tmp_path / "certificate", tmp_path / "root.json"
    words = ("--key", fleet.key("operator"), "--halt", halt, "--out", out, "--wait", 1)
    said = firedoor("certificate", *words)
    assert said.code == 0, said.err
    root.write_bytes(DEEP)
    assert_one_sentence(firedoor("certificate", "verify", out, "--root", root))


@pytest.mark.parametrize("root", [DEEP, b"junk"], ids=["deep", "junk"])
def test_a_stick_s_first_root_ends_no_visit_in_a_traceback(
    fleet: Ground, lonely: Program, stick: Path, root: bytes
) -> None:
    held = opened(stick)
    metadata = held.metadata()
    assert metadata is not None
    held.keep_metadata(MetadataFiles(dict(metadata.files) | {"1.root.json": root}))
    assert "Traceback" not in carry(fleet, stick, lonely).text


def test_junk_orders_on_a_stick_keep_no_halt_waiting(
    fleet: Ground, lonely: Program, tmp_path: Path
) -> None:
    fleet.halt("kiosk==1.0", 4, "bad")
    stick = tmp_path / "stick"
    assert carry(fleet, stick, fleet.origin).code == 0
    real = opened(stick).orders()
    unsigned = (Signature("a" * 64, bytes(64)),)
    junk = tuple(
        encode(Envelope("halt", number.to_bytes(8, "big") * 8, unsigned))
        for number in range(JUNK_ORDERS - len(real))
    )
    orders = OrderFile(FORMAT, (stick / "fleet").read_text("ascii"), (*junk, *real))
    (stick / "orders").write_bytes(encode(orders))
    began = time.monotonic()
    said = carry(fleet, stick, lonely)
    assert said.code == 0, said.err[-500:]
    assert time.monotonic() - began < VISIT_S
    assert said.out.count("\n") < 100


def test_manifests_that_nobody_signed_take_no_memory(
    fleet: Ground, lonely: Program, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = blake3(b"").digest()
    files = tuple(FileEntry(f"{number:x}", 0o644, 0, empty) for number in range(FILES))
    content = content_digest(files)
    (stick / "manifests").mkdir(exist_ok=True)
    for number in range(MANIFESTS):
        version = f"9.{number}"
        made = Manifest("kiosk", version, 9 + number, "main", "files", files, content)
        data = encode_manifest(made)
        (stick / "manifests" / sha256(data).hexdigest()).write_bytes(data)
    # Here it is memory that counts, not time.
    monkeypatch.setattr("tests.attacks.ground.COMMAND_S", 100.0)
    peak = stick.parent / "peak"
    command = (sys.executable, "-m", "firedoor.cli.main", "carry", stick)
    at = ("--key", fleet.key("operator"), "--to", lonely.address)
    said = run(sys.executable, "-c", MEASURE, peak, *command, *at)
    assert "MemoryError" not in said.text
    assert int(peak.read_text("ascii")) < MEMORY_KIB_MAX, said.text[-300:]

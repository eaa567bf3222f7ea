"""Key files, and the durable writes under them."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firedoor.errors import Malformed, TooLarge, Unavailable, Untrusted
from firedoor.runtime.files import durable_write
from firedoor.runtime.keys.key_files import KeyFile, read_key_file, write_key_file

SECRET = bytes(range(64))
KEY = KeyFile(
    role="halt",
    name="halt-1",
    fleet="f" * 32,
    keyid="a" * 64,
    public="b" * 64,
    secret=SECRET.hex(),
    origin="127.0.0.1:8443",
    mdns=("127.0.0.1",),
)


def never() -> str:
    raise AssertionError("an unsealed file needs no passphrase")


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_bytes())
    edit(table)
    path.write_text(json.dumps(table))


@pytest.fixture(scope="module")
def sealed_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("keys") / "halt.key"
    write_key_file(path, KEY, "right")
    return path.read_bytes()


@pytest.fixture
def sealed(tmp_path: Path, sealed_bytes: bytes) -> Path:
    path = tmp_path / "halt.key"
    path.write_bytes(sealed_bytes)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "halt.key"
    write_key_file(path, KEY, None)
    return path


def test_an_unsealed_key_is_read_back_without_a_passphrase(plain: Path) -> None:
    assert read_key_file(plain, never) == KEY
    assert "sealed" not in json.loads(plain.read_bytes())


def test_the_secret_is_two_seeds() -> None:
    assert KEY.signing_seed == SECRET[:32]
    assert KEY.tls_seed == SECRET[32:]


def test_a_secret_never_shows() -> None:
    assert SECRET.hex() not in repr(KEY)


def test_a_key_file_is_its_owners_alone(plain: Path) -> None:
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600


def test_a_sealed_key_opens_with_its_passphrase(sealed: Path) -> None:
    assert read_key_file(sealed, lambda: "right") == KEY


def test_a_sealed_key_does_not_hold_its_secret(sealed: Path) -> None:
    table = json.loads(sealed.read_bytes())
    assert "secret" not in table
    assert table["sealed"]["kdf"] == "argon2id"
    assert SECRET.hex()[:32] not in sealed.read_text()


@pytest.mark.slow
def test_a_root_key_costs_more_to_open(tmp_path: Path, sealed: Path) -> None:
    write_key_file(tmp_path / "root.key", KeyFile("root", "r", "f", "k", "p", SECRET.hex()), "x")
    root = json.loads((tmp_path / "root.key").read_bytes())["sealed"]
    assert root["memlimit"] > json.loads(sealed.read_bytes())["sealed"]["memlimit"]


def test_a_wrong_passphrase_is_refused_in_words(sealed: Path) -> None:
    with pytest.raises(Untrusted, match="wanted its passphrase"):
        read_key_file(sealed, lambda: "wrong")


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table["sealed"].update(memlimit=1 << 40),
        lambda table: table["sealed"].update(memlimit=1),
        lambda table: table["sealed"].update(opslimit=1 << 20),
        lambda table: table["sealed"].update(opslimit=0),
        lambda table: table["sealed"].update(kdf="scrypt"),
        lambda table: table.update(secret="00" * 64),
    ],
)
def test_a_sealed_key_of_unbearable_form_is_refused_before_a_passphrase_is_asked(
    sealed: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(sealed, edit)
    with pytest.raises(Malformed):
        read_key_file(sealed, never)


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table["sealed"].update(salt="00"),
        lambda table: table["sealed"].update(salt="zz"),
        lambda table: table["sealed"].update(box="00"),
    ],
)
def test_a_damaged_seal_is_no_wrong_passphrase(
    sealed: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(sealed, edit)
    with pytest.raises(Malformed):
        read_key_file(sealed, lambda: "right")


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table.update(format="firedoor-key-2"),
        lambda table: table.update(extra=1),
        lambda table: table.pop("role"),
        lambda table: table.update(mdns="127.0.0.1"),
        lambda table: table.update(secret="00" * 63),
        lambda table: table.update(secret="zz" * 64),
        lambda table: table.pop("secret"),
    ],
)
def test_an_odd_key_file_is_refused(plain: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    change(plain, edit)
    with pytest.raises(Malformed):
        read_key_file(plain, never)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 60000])
def test_no_key_file_at_all_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(Malformed):
        read_key_file(tmp_path / "key", never)


def test_an_endless_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" " * 70000)
    with pytest.raises(TooLarge):
        read_key_file(tmp_path / "key", never)


def test_a_missing_key_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        read_key_file(tmp_path / "none", never)


# --- files --------------------------------------------------------------------------------------


def test_a_durable_write_replaces_the_whole_file_and_sets_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a longer one")
    durable_write(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(Unavailable):
        durable_write(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_into_no_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        durable_write(tmp_path / "none" / "file", b"new")

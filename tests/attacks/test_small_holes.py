"""Secrets that lie open for a moment, and answers of a port that say the wrong thing."""

import asyncio
import http.client
import json
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from firedoor.cli.client.key_opening import open_key
from firedoor.limits import ENROLMENT_BYTES_MAX
from firedoor.runtime.keys.key_files import read_key_file, write_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of
from firedoor.runtime.network.peer_server import say_errors
from tests.attacks.ground import (
    Ground,
    assert_one_sentence,
    firedoor,
    ground,
    make_huge,
    run,
    until,
)

pytestmark = pytest.mark.slow

# Runs the command and says each file that is opened for writing.
WATCH = """
import os, sys
def seen(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        flags = args[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            print("WROTE", os.fsdecode(args[0]), file=sys.stderr)
sys.addaudithook(seen)
from firedoor.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("ground")) as made:
        made.publish("app", "1.0")
        yield made


# --- tokens --------------------------------------------------------------------------------------


def test_a_token_comes_by_a_file(fleet: Ground, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{fleet.token('agent')}\n", "utf-8")
    said = firedoor("enrol", "--token-file", tmp_path / "token", "--state", tmp_path / "state")
    assert said.code == 0, said.err
    assert (tmp_path / "state" / "identity.key").exists()


@pytest.mark.parametrize("words", [["-"], ["--token-file", "-"]], ids=["a dash", "a dash as file"])
def test_a_token_comes_by_standard_input(fleet: Ground, tmp_path: Path, words: list[str]) -> None:
    token = fleet.token("agent")
    said = firedoor("enrol", *words, "--state", tmp_path / "state", stdin=f"{token}\n")
    assert said.code == 0, said.err
    assert (tmp_path / "state" / "identity.key").exists()


def test_a_token_s_file_is_read_with_a_bound(fleet: Ground, tmp_path: Path) -> None:
    make_huge(tmp_path / "token")
    said = firedoor("enrol", "--token-file", tmp_path / "token", "--state", tmp_path / "state")
    assert said.code == 1
    assert_one_sentence(said)


# --- secrets on a disk ---------------------------------------------------------------------------


def test_a_sealed_key_s_private_part_goes_to_no_file(fleet: Ground, tmp_path: Path) -> None:
    sealed, words = tmp_path / "sealed.key", tmp_path / "words"
    write_key_file(sealed, open_key(fleet.key("halt-1"), None), "correct horse")
    words.write_text("correct horse\n", "utf-8")
    said = run(
        sys.executable, "-c", WATCH, "status", "--key", sealed, "--passphrase-file", words,
        "--to", fleet.origin.address, PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert said.code == 0, said.err
    wrote = [line[6:] for line in said.err.splitlines() if line.startswith("WROTE ")]
    assert [path for path in wrote if not path.startswith(("/dev/", "/proc/"))] == []


def modes(folder: Path) -> dict[str, str]:
    """What others may do with each file of a state folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777) for path in found}


@pytest.mark.parametrize("umask", [0o000, 0o022], ids=oct)
def test_the_files_of_a_state_folder_are_their_owner_s_whatever_the_umask(
    fleet: Ground, tmp_path: Path, umask: int
) -> None:
    agent = fleet.agent(f"endpoint-{umask}", tmp_path / "root", "app")
    agent.start(umask)
    until("it runs", (tmp_path / "root" / "current").is_symlink)
    agent.stop()
    wrong = {name: mode for name, mode in modes(agent.folder / "state").items() if mode != "0o600"}
    assert not wrong


@pytest.mark.parametrize("umask", [0o000, 0o022], ids=oct)
def test_the_files_of_an_origin_s_state_are_its_owner_s_whatever_the_umask(
    tmp_path: Path, umask: int
) -> None:
    with ground(tmp_path, umask) as own:
        own.publish("app", "1.0")
        own.token("agent")
        found = modes(tmp_path / "origin" / "state")
    assert not {name: mode for name, mode in found.items() if mode != "0o600"}


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_what_is_installed_can_be_read_by_all_and_written_by_nobody_else(
    fleet: Ground, tmp_path: Path, umask: int
) -> None:
    agent = fleet.agent(f"installed-{umask}", tmp_path / "root", "app")
    agent.start(umask)
    until("it runs", (tmp_path / "root" / "current" / "content").exists)
    agent.stop()
    version = (tmp_path / "root" / "current").resolve()
    found = [oct(path.stat().st_mode & 0o777) for path in (version, version / "content")]
    assert found == ["0o755", "0o644"]


# --- answers -------------------------------------------------------------------------------------


def ask(
    fleet: Ground, method: str, path: str, body: bytes = b"", *, to: str = "", key: str = ""
) -> tuple[int, bytes]:
    """One request to the origin, with an operator's certificate."""
    credentials = credentials_of(read_key_file(fleet.key(key or "operator"), str))
    context = client_context(credentials)
    if to:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.check_hostname = False
    host, _, port = (to or fleet.origin.address).rpartition(":")
    line = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    try:
        line.request(method, path, body)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


@pytest.mark.parametrize("name", ["x" * 250, "x" * 300, "x" * 5000, "%00", "..%2f..%2fca.key"])
def test_a_name_that_no_metadata_can_have_is_not_found_and_not_logged(
    fleet: Ground, name: str
) -> None:
    before = len(fleet.origin.log)
    status, _ = ask(fleet, "GET", f"/v1/metadata/{name}")
    assert status in {400, 404, 414}
    assert len(fleet.origin.log) - before < 500


def test_a_body_that_is_too_large_is_413(fleet: Ground) -> None:
    status, _ = ask(fleet, "POST", "/v1/renew", bytes(ENROLMENT_BYTES_MAX + 1))
    assert status == 413


def test_a_body_that_is_too_large_is_413_to_a_stranger_too(fleet: Ground) -> None:
    status, _ = ask(fleet, "POST", "/enrol", bytes(ENROLMENT_BYTES_MAX + 1), to=fleet.enrol)
    assert status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (ENROLMENT_BYTES_MAX - 1),
        json.dumps({"secret": "\ud800", "request": "x"}).encode(),
        json.dumps({"secret": "x", "request": "\ud800"}).encode(),
        b"\xff\xfe",
    ],
    ids=["deep brackets", "half a character", "half a character in a request", "no UTF-8"],
)
def test_a_stranger_s_enrolment_that_is_none_is_refused_and_not_logged(
    fleet: Ground, body: bytes
) -> None:
    before = len(fleet.origin.log)
    status, _ = ask(fleet, "POST", "/enrol", body, to=fleet.enrol)
    assert 400 <= status < 500
    assert len(fleet.origin.log) - before < 500


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (ENROLMENT_BYTES_MAX - 1),
        b'{"role": "agent", "site": "x", "ring": "y", "span_s": 1e999}',
        b'{"role": "agent", "site": "\\ud800", "ring": "y", "span_s": 9}',
        b'{"role": [], "site": "x", "ring": "y", "span_s": 9}',
    ],
    ids=["deep brackets", "endless", "half a character", "a role that is a list"],
)
def test_a_token_that_nobody_can_have_is_refused_and_not_logged(fleet: Ground, body: bytes) -> None:
    before = len(fleet.origin.log)
    status, _ = ask(fleet, "POST", "/v1/tokens", body)
    assert 400 <= status < 500
    assert len(fleet.origin.log) - before < 500


def test_a_release_that_is_not_held_is_not_found(fleet: Ground) -> None:
    # Of several refusals this one is about the name; it comes with the range of pieces.
    credentials = credentials_of(read_key_file(fleet.key("operator"), str))
    context = client_context(credentials)
    context.check_hostname = False
    host, _, port = fleet.origin.address.rpartition(":")
    line = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    line.request("GET", f"/v1/releases/{'0' * 64}/payload", headers={"Range": "bytes=0-9"})
    assert line.getresponse().status in {404, 425}
    line.close()


def test_a_key_that_a_handler_lacks_is_our_own_mistake_and_no_404() -> None:
    async def broken(_: web.Request) -> web.Response:
        table: dict[str, str] = {}
        return web.Response(text=table["a slip of ours"])

    async def ask_once() -> int:
        app = web.Application(middlewares=[say_errors])
        app.add_routes([web.get("/", broken)])
        async with TestClient(TestServer(app)) as client, client.get("/") as answer:
            return answer.status

    assert asyncio.run(ask_once()) == 500


def test_a_state_folder_is_closed_to_others_whatever_the_umask(
    fleet: Ground, tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        said = firedoor("enrol", fleet.token("agent"), "--state", tmp_path / "state")
    finally:
        os.umask(old)
    assert said.code == 0
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert not {name: mode for name, mode in modes(tmp_path / "state").items() if mode != "0o600"}

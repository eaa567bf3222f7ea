"""Bodies that unpack to more than they are, and bodies that say that they are too long."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from firedoor.errors import FiredoorError
from firedoor.identity import Role
from firedoor.limits import PIECES_MAX
from firedoor.runtime.keys.tls import client_context, enrolment_server_context, role_name
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.listening import serve
from firedoor.runtime.settings import split_address
from mirror.api.enrolment_routes import enrolment_app, forward_routes
from mirror.api.origin_routes import OriginApi
from tests.attacks.burdens import (
    answer_to,
    any_context,
    client_of,
    cpu_s_of,
    forget_peak,
    peak_mb_of,
    pid_of,
    post,
    read_to_end,
    request_head,
    resident_mb_of,
    unnamed,
)
from tests.attacks.test_half_requests import Enroller
from tests.live.lab import LabSite, tell
from tests.unit.firedoor.runtime.network.test_transfers import AGENT, MIRROR, Fake, run, site
from tests.unit.mirror.api.test_mirror_routes import OPERATOR
from tests.unit.origin_bench import Bench

# For an answer that needs nothing but the head of a request.
SPAN_S = 8.0

CODINGS = ("gzip", "deflate", "br", "zstd")

# A zstd frame of 4 GiB of zeros in 128 KiB: blocks of four bytes, each 128 KiB of one byte.
BLOCKS = 32_768
BOMB_HEAD = bytes.fromhex("28b52ffd") + bytes([0x00, 0x38])
BLOCK = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
BOMB = BOMB_HEAD + BLOCK * BLOCKS

BOMBS = 24


class Nobody:
    """A daemon that nothing is asked of."""

    async def repository_changed(self) -> None:
        raise AssertionError

    async def certificate(self, order: bytes) -> bytes:
        raise AssertionError


@asynccontextmanager
async def enrolment_port() -> AsyncIterator[int]:
    server = await serve(enrolment_app(Enroller()), "127.0.0.1:0", enrolment_server_context(MIRROR))
    try:
        yield server.port
    finally:
        await server.close()


def status_of(answer: bytes | None) -> int:
    """The status of an answer after which the server has hung up."""
    assert answer is not None, "the server waits for a body that it must not take"
    return int(answer.split(b" ", 2)[1])


# --- before a byte of the body has come --------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_enrolment_is_refused_before_any_of_it_has_come(coding: str) -> None:
    head = request_head("/enrol", f"Content-Encoding: {coding}", "Content-Length: 1000")

    async def work() -> None:
        async with enrolment_port() as port:
            answer = await answer_to(port, head, any_context(), span_s=SPAN_S)
            assert 400 <= status_of(answer) < 500

    run(work())


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_request_of_a_peer_is_refused_before_any_of_it_has_come(coding: str) -> None:
    head = request_head("/v1/renew", f"Content-Encoding: {coding}", "Content-Length: 1000")

    async def work() -> None:
        async with site(Fake(), more=forward_routes(Enroller(), lambda _: False)) as one:
            context = unnamed(client_context(AGENT))
            answer = await answer_to(one.port, head, context, span_s=SPAN_S)
            assert 400 <= status_of(answer) < 500

    run(work())


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_body_in_chunks_is_refused_before_any_of_it_has_come(coding: str) -> None:
    head = request_head("/enrol", f"Content-Encoding: {coding}", "Transfer-Encoding: chunked")

    async def work() -> None:
        async with enrolment_port() as port:
            answer = await answer_to(port, head, any_context(), span_s=SPAN_S)
            assert 400 <= status_of(answer) < 500

    run(work())


def test_an_enrolment_that_says_it_is_too_long_is_refused_at_once() -> None:
    head = request_head("/enrol", "Content-Length: 1000000")

    async def work() -> None:
        async with enrolment_port() as port:
            answer = await answer_to(port, head, any_context(), span_s=SPAN_S)
            assert status_of(answer) == 413

    run(work())


def test_an_enrolment_that_is_too_long_is_not_read_to_its_end() -> None:
    # In chunks: nobody has said how long it is.
    head = request_head("/enrol", "Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"

    async def work() -> None:
        async with enrolment_port() as port:
            answer = await answer_to(port, head + chunk, any_context(), span_s=SPAN_S)
            assert status_of(answer) == 413

    run(work())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/publish/missing",
        "/v1/publish/piece",
        "/v1/publish/release",
        "/v1/keys/fresh",
        "/v1/keys/rotate",
        "/v1/tokens",
        "/v1/renew",
    ],
)
def test_an_operators_body_that_says_it_is_too_long_is_refused_at_once(
    bench: Bench, path: str
) -> None:
    api = OriginApi(bench.origin, Nobody())
    routes = [*api.routes(), *forward_routes(Enroller(), lambda _: False)]
    head = request_head(path, f"Content-Length: {PIECES_MAX * 1000}")

    async def work() -> None:
        async with site(Fake(), agent=OPERATOR, more=routes) as one:
            context = unnamed(client_context(OPERATOR))
            answer = await answer_to(one.port, head, context, span_s=SPAN_S)
            assert status_of(answer) == 413

    run(work())


# --- what is decoded all the same ----------------------------------------------------------------


async def throw(address: str, context: ssl.SSLContext) -> None:
    """One bomb at an enrolment port; returns when its connection is over."""
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    head = request_head("/enrol", "Content-Encoding: zstd", f"Content-Length: {len(BOMB)}")
    try:
        async with asyncio.timeout(SPAN_S):
            writer.write(head + BOMB)
            await read_to_end(reader)
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


@pytest.mark.live
def test_packed_enrolments_cost_a_program_no_more_than_plain_ones(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        pid, context = pid_of(site, "origin"), any_context()
        before = cpu_s_of(pid)
        await asyncio.gather(*(throw(site._enrol, context) for _ in range(BOMBS)))
        # A handshake and a refusal take some milliseconds each.
        assert cpu_s_of(pid) - before < 2.0

    tell(tmp_path, story)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore:Sending a large body")
def test_a_list_of_empty_lists_costs_no_more_memory_than_its_bytes(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        pid, size = pid_of(site, "origin"), 8 << 20
        before = resident_mb_of(pid)
        forget_peak(pid)
        body = b"\xdd" + size.to_bytes(4, "big") + b"\x90" * size
        async with client_of(site.fleet / "keys" / "halt-1.key") as client:
            for path in ("/v1/publish/missing", "/v1/publish/release"):
                with pytest.raises(FiredoorError):
                    await post(client, site, path, body)
        assert peak_mb_of(pid) - before < 100

    tell(tmp_path, story)


# --- held --------------------------------------------------------------------------------------


def test_a_packed_frame_ends_its_conversation_unread() -> None:
    upgrade = request_head(
        "/v1/peer",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ).replace(b"POST", b"GET", 1)
    heard: list[bytes] = []

    async def listen(talk: Conversation) -> None:
        heard.extend([frame async for frame in talk.frames()])

    async def work() -> None:
        async with site(Fake(talk=listen)) as one:
            context = unnamed(client_context(AGENT))
            name = role_name(Role.MIRROR)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", one.port, ssl=context, server_hostname=name
            )
            writer.write(upgrade)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"permessage-deflate" not in head
            # Whole, binary, "compressed", masked by zeros.
            writer.write(bytes([0b1100_0010, 0x80 | 4]) + bytes(4) + os.urandom(4))
            # Closed with 1002, a breach of the protocol.
            assert await read_to_end(reader) == bytes.fromhex("880203ea")
            writer.transport.abort()
        assert heard == []

    run(work())

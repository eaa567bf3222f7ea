"""Connections that begin something and never end it, on both ports of a program."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from firedoor.identity import Peer
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.runtime.keys.tls import client_context, enrolment_server_context
from firedoor.runtime.network.listening import serve
from mirror.api.enrolment_routes import enrolment_app, forward_routes
from tests.attacks.burdens import (
    Streams,
    any_context,
    begin_origin,
    descriptors_of,
    pid_of,
    read_to_end,
    request_head,
    running,
    unnamed,
)
from tests.live.lab import LabSite, has_recorded, tell
from tests.unit.firedoor.runtime.network.test_transfers import AGENT, MIRROR, Fake, run, site, until

DESCRIPTORS = 1024

# Twice what a program may open.
HELD = 2 * DESCRIPTORS

# What the operators, upstreams and the disk can still have beside an attack.
RESERVED = 16

# Far above a limit of seconds, below that of a test.
SPAN_S = 15.0

# What the first to be in and the last may be apart; a site without its mirror has no lease.
COME_BACK_S = 60.0

HALF = request_head("/v1/renew", "Content-Length: 100")


class Enroller:
    """Takes in nobody."""

    ca = b"ca"

    async def enrol(self, body: bytes) -> bytes:
        return body

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        return body


# --- one connection ----------------------------------------------------------------------------


async def silent(port: int, context: ssl.SSLContext) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port)


async def half_a_hello(port: int, context: ssl.SSLContext) -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    hello = outgoing.read()
    writer.write(hello[: len(hello) // 2])
    return reader, writer


async def no_request(port: int, context: ssl.SSLContext) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def half_a_head(port: int, context: ssl.SSLContext) -> Streams:
    reader, writer = await no_request(port, context)
    writer.write(HALF[:-2])
    return reader, writer


async def half_a_body(port: int, context: ssl.SSLContext) -> Streams:
    reader, writer = await no_request(port, context)
    writer.write(HALF.replace(b"/v1/renew", b"/enrol") + b"{")
    return reader, writer


async def half_a_renewal(port: int, context: ssl.SSLContext) -> Streams:
    reader, writer = await no_request(port, context)
    writer.write(HALF + b"{")
    return reader, writer


async def a_drip(port: int, context: ssl.SSLContext) -> Streams:
    """Never silent for long, never done."""
    reader, writer = await half_a_head(port, context)

    async def drip() -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.5)

    dripping = asyncio.ensure_future(drip())
    dripping.add_done_callback(lambda done: done.cancelled() or done.exception())
    return reader, writer


HALVES = (silent, half_a_hello, no_request, half_a_head, half_a_body, half_a_renewal, a_drip)


async def still_open(port: int, context: ssl.SSLContext) -> set[str]:
    """The halves that the server at `port` has not ended after SPAN_S."""
    open_ = {}
    for half in HALVES:
        reader, writer = await half(port, context)
        open_[asyncio.ensure_future(read_to_end(reader))] = (half.__name__, writer)
    _, pending = await asyncio.wait(open_, timeout=SPAN_S)
    left = {open_[each][0] for each in pending}
    for _, writer in open_.values():
        writer.transport.abort()
    await asyncio.wait(open_)
    return left


@asynccontextmanager
async def enrolment_port() -> AsyncIterator[int]:
    server = await serve(enrolment_app(Enroller()), "127.0.0.1:0", enrolment_server_context(MIRROR))
    try:
        yield server.port
    finally:
        await server.close()


@pytest.mark.slow
def test_the_enrolment_port_ends_what_does_not_end_itself() -> None:
    async def work() -> None:
        async with enrolment_port() as port:
            # Where there is no such path, what is refused at once has ended as well.
            assert await still_open(port, any_context()) == set()

    run(work())


@pytest.mark.slow
def test_the_mtls_port_ends_what_does_not_end_itself() -> None:
    async def work() -> None:
        async with site(Fake(), more=forward_routes(Enroller(), lambda _: False)) as one:
            assert await still_open(one.port, unnamed(client_context(AGENT))) == set()

    run(work())


@dataclass
class Large(Fake):
    """Serves metadata that no queue of the kernel holds."""

    async def metadata(self, name: str) -> bytes | None:
        return bytes(METADATA_BYTES_MAX)


@pytest.mark.slow
def test_an_answer_that_nobody_takes_is_given_up() -> None:
    ask = b"GET /v1/metadata/1.releases.json HTTP/1.1\r\nHost: x\r\n\r\n"

    async def work() -> None:
        async with site(Large()) as one:
            before = descriptors_of(os.getpid())
            context = unnamed(client_context(AGENT))
            # What is not read beyond this stays in the kernel, and then at the server.
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", one.port, ssl=context, limit=1024
            )
            opened = descriptors_of(os.getpid())
            assert opened >= before + 2
            writer.write(ask)
            with suppress(TimeoutError):
                async with asyncio.timeout(SPAN_S):
                    await until(lambda: descriptors_of(os.getpid()) < opened)
            left = descriptors_of(os.getpid())
            writer.transport.abort()
            del reader
        assert left < opened

    run(work())


# --- thousands of them -------------------------------------------------------------------------


@asynccontextmanager
async def held(
    site: LabSite, port: int, key: str, path: str, *, kinds: Sequence[str]
) -> AsyncIterator[tuple[str, ...]]:
    """An attacker that holds what it can of the origin's port; the prefix of its machine."""
    prefix, _ = site._lab.host("attacker")
    host = site.programs["origin"].address.rpartition(":")[0]
    words = (sys.executable, "-m", "tests.attacks.holder")
    arguments = (host, str(port), str(HELD), key, path, *kinds)
    async with running(*words, *arguments, prefix=prefix) as said:
        async with asyncio.timeout(25):
            assert await said.readline() == b"held\n"
        yield prefix


async def bounded_origin(site: LabSite, descriptors: int = DESCRIPTORS) -> None:
    await begin_origin(site, "prlimit", f"--nofile={descriptors}")


async def is_in_reach(site: LabSite, descriptors: int = DESCRIPTORS) -> None:
    """An operator halts, and the origin records it."""
    await site.halt("kiosk", at="origin")
    await site.until_all("the origin has recorded it", ["origin"], has_recorded)
    assert descriptors_of(pid_of(site, "origin")) <= descriptors - RESERVED


@pytest.mark.live
def test_two_thousand_half_enrolments_keep_no_operator_out(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await bounded_origin(site)
        kinds = ("silent", "header", "body", "idle")
        async with held(site, 7444, "-", "/enrol", kinds=kinds):
            await is_in_reach(site)
            # Nor a machine that is to be enrolled, from an address of its own.
            await site.enrol(1, ["kiosk"])

    tell(tmp_path, story)


@pytest.mark.live
def test_two_thousand_half_requests_by_one_certificate_keep_no_operator_out(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await bounded_origin(site)
        origin = site.programs["origin"].address
        thief, honest = await site.enrol(2, ["kiosk"], mirrors=[origin])
        key = str(site.programs[thief].folder / "state" / "identity.key")
        kinds = ("silent", "header", "body", "idle")
        async with held(site, 7443, key, "/v1/renew", kinds=kinds):
            await is_in_reach(site)
            await site.start(honest)
            await site.until_halted([honest])

    tell(tmp_path, story)


@pytest.mark.live
# A standing connection takes a descriptor, so a thousand of them need more than 1,024.
@pytest.mark.parametrize(("crowd", "descriptors"), [(100, DESCRIPTORS), (1000, 2 * DESCRIPTORS)])
def test_a_site_that_shares_the_attackers_address_comes_back_whole(
    tmp_path: Path, crowd: int, descriptors: int
) -> None:
    async def story(site: LabSite) -> None:
        await bounded_origin(site, descriptors)
        host = site.programs["origin"].address.rpartition(":")[0]
        words = (sys.executable, "-m", "tests.attacks.crowd", host, "7443", str(crowd))
        # No certificate at all: nothing but the address could tell it from the site.
        async with (
            held(site, 7443, "-", "/", kinds=("silent", "header")) as prefix,
            running(*words, str(site.fleet), prefix=prefix) as said,
        ):
            async with asyncio.timeout(COME_BACK_S):
                assert await said.readline() == b"all are in\n"
            await is_in_reach(site, descriptors)

    tell(tmp_path, story)

"""One mirror of any site asks the origin for its status, again and again on all its connections.

The status of a fleet of some thousand endpoints is large; no order waits while it is made.
"""

import asyncio
import os
import sqlite3
import ssl
from contextlib import closing, suppress
from pathlib import Path

import pytest

from firedoor.identity import Role
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of
from firedoor.runtime.settings import split_address
from tests.attacks.burdens import unnamed
from tests.attacks.hostile import stolen, talking
from tests.attacks.timed_halts import BOUND_S, spans_of_halts
from tests.live.lab import MIB, LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# The origin takes 65,536.
ENDPOINTS = 5_000

# As many as one certificate may have, but for a few.
CONNECTIONS = 60

REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"

ENROLLED = """INSERT INTO peers (id, role, site, ring, enrolled_at, renewed_at)
  VALUES (?, 'agent', ?, 'broad', 1, 1)"""


def enrol_many(state: Path) -> None:
    """As if so many endpoints had been enrolled."""
    rows = [(os.urandom(16).hex(), f"site-{number % 99}") for number in range(ENDPOINTS)]
    with closing(sqlite3.connect(state / "origin.sqlite")) as base, base:
        base.executemany(ENROLLED, rows)


async def ask(address: str, context: ssl.SSLContext, asked: list[int]) -> None:
    """Ask for ever on one connection, or on the next when it is ended; `asked`: how often."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await ask_on_one(address, context, asked)
        await asyncio.sleep(0.05)


async def ask_on_one(address: str, context: ssl.SSLContext, asked: list[int]) -> None:
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        while True:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(size)
            asked[0] += 1
    finally:
        writer.transport.abort()


def test_statuses_for_one_mirror_delay_no_halt(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        enrol_many(next(site.folder.rglob("origin.sqlite")).parent)
        [honest] = await site.enrol(1, ["kiosk"], mirrors=[site.programs["mirror"].address])
        await site.start(honest)
        await site.publish("kiosk", "1.0", MIB // 4)
        await site.until_running("kiosk", "1.0", [honest])
        key = await stolen(site, "thief", Role.MIRROR, place="annex")
        operator = read_key_file(site.fleet / "keys" / "operator.key", str)
        origin = site.programs["origin"].address
        context, asked = unnamed(client_context(credentials_of(key))), [0]
        async with talking(operator, origin, Role.MIRROR) as talk:
            quiet = await spans_of_halts(site, talk, honest)
            tasks = [asyncio.ensure_future(ask(origin, context, asked)) for _ in range(CONNECTIONS)]
            try:
                # Until all of them ask.
                await asyncio.sleep(3.0)
                flooded = await spans_of_halts(site, talk, honest)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        print(f"quiet {quiet}, flooded {flooded}, {asked[0]} statuses")
        assert max(quiet) < BOUND_S
        assert max(flooded) < BOUND_S

    tell(tmp_path, story)

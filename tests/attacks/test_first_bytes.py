"""A machine without a certificate and with many addresses that begins handshakes and ends none.

Each of its connections says its first byte at once, and no address has more than an honest site.
"""

import asyncio
import sys
from pathlib import Path

import pytest

from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of
from firedoor.runtime.settings import split_address
from tests.attacks.burdens import begin_origin, running, unnamed
from tests.attacks.test_connects import REFUSED, TRIES, far_get
from tests.attacks.test_spoofed_hosts import ADDRESSES, take_addresses
from tests.live.lab import LabSite, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

# A tenth of what the floods of test_connects.py do.
PER_S = 300

# Endpoints of an honest site that come at once, behind one address.
CROWD = 3

CONNECT = """
import collections, socket, sys, time
host, port, per_s, sources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
held, fresh, began, sent = collections.deque(), collections.deque(), time.monotonic(), 0
print("begun", flush=True)
while True:
    made = socket.socket()
    made.bind((sources[sent % len(sources)], 0))
    made.setblocking(False)
    made.connect_ex((host, port))
    held.append(made)
    fresh.append(made)
    sent += 1
    if len(fresh) > 3:
        try:
            fresh.popleft().send(b"\\x16")
        except OSError:
            pass
    if len(held) > 300:
        held.popleft().close()
    ahead = sent / per_s - (time.monotonic() - began)
    if ahead > 0.002:
        time.sleep(ahead)
"""


def test_first_bytes_from_many_addresses_keep_nobody_out(tmp_path: Path) -> None:
    """An honest handshake over a long line comes to its end beside them."""

    async def story(site: LabSite) -> None:
        await begin_origin(site)
        host, port = split_address(site.programs["origin"].address)
        prefix, _ = site._lab.host("stranger")
        take_addresses(prefix)
        key = read_key_file(site.fleet / "keys" / "operator.key", str)
        context = unnamed(client_context(credentials_of(key)))

        async def tries() -> list[float]:
            spans: list[float] = []
            while len(spans) < TRIES:
                crowd = (far_get(host, port, context) for _ in range(CROWD))
                spans += await asyncio.gather(*crowd)
            return spans

        quiet = await tries()
        command = (sys.executable, "-c", CONNECT, host, str(port), str(PER_S), *ADDRESSES)
        async with running(*command, prefix=prefix) as out:
            await out.readline()
            # Until as many are under way as may be.
            await asyncio.sleep(4.0)
            flooded = await tries()
        print(f"quiet {quiet}, flooded {flooded}")
        assert REFUSED not in quiet
        assert flooded.count(REFUSED) <= TRIES // 4

    tell(tmp_path, story)

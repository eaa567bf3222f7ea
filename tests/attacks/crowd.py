"""Honest endpoints behind one address that all come back at once; says when all are in step.

Arguments: HOST PORT COUNT FLEET, a fleet's folder, whose authority makes their certificates.
"""

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import uvloop

from firedoor.errors import FiredoorError
from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import issue, make_request
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import Credentials, credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.wire.messages import (
    Hello,
    OrderIds,
    OrdersDone,
    decode_message,
    encode_message,
)

# As an agent's own backoff.
AGAIN_S = 0.5


def member(operator: KeyFile, origin: Path) -> Credentials:
    """A new endpoint of the fleet."""
    authority, seed = read_key_file(origin / "ca.key", str), os.urandom(32)
    certificate = issue(
        make_request(seed),
        ca_pem=operator.ca.encode(),
        ca_seed=authority.signing_seed,
        role=Role.AGENT,
        site="branch",
        now=Clock().unix(),
    )
    key = replace(operator, secret=(bytes(32) + seed).hex(), certificate=certificate.decode())
    return credentials_of(key)


async def come_in(credentials: Credentials, address: tuple[str, int]) -> PeerClient:
    """Exchange orders with the mirror, however often that takes; the conversation stays open."""
    client = PeerClient(credentials, Clock(), Budget(0))
    while True:
        with suppress(FiredoorError):
            _, talk = await client.dial(*address, role=Role.MIRROR)
            for message in (Hello(bytes(32), 0), OrdersDone(), OrderIds(())):
                talk.send(encode_message(message))
            async for frame in talk.frames():
                if isinstance(decode_message(frame), OrdersDone):
                    return client
        await asyncio.sleep(AGAIN_S)


async def main(address: tuple[str, int], count: int, fleet: Path) -> None:
    """Bring all of them in and keep them there."""
    operator = read_key_file(fleet / "keys" / "operator.key", str)
    crowd = [member(operator, fleet / "origin") for _ in range(count)]
    _held = await asyncio.gather(*(come_in(each, address) for each in crowd))
    print("all are in", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, host, port, count, fleet = sys.argv
    uvloop.run(main((host, int(port)), int(count), Path(fleet)))

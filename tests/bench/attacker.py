"""An enrolled machine that sends forged records, as fast as it is told to (see flood.py)."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from firedoor.errors import FiredoorError
from firedoor.halt.envelope import seal
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.host.multicast import GROUP, PORT
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.wire.messages import Hello, Orders, encode_message
from tests.bench.mailbox import Voice

# Different records; beyond them they come round again, and nobody remembers what was refused.
FORGED = 20_000

# Ten times what a node verifies.
JUNK_PER_S = 500

# A conversation takes so long to be ended at the other side; then the next one is opened.
TURN_S = 0.002


def run_attacker(order: dict[str, Any]) -> None:
    """Flood for `seconds`, then say how many records were sent in how many conversations."""
    voice = Voice(Path(order["mailbox"]), order["index"])
    key = read_key_file(Path(order["key"]), str)
    frames = _frames(key, order["keyid"], order["batch"])
    sent, talks, span = asyncio.run(_flood(key, frames, order))
    voice.tell("flooded", "-", sent, talks, span)


def _frames(key: KeyFile, keyid: str, batch: int) -> list[tuple[int, bytes]]:
    """Frames of forged records, and how many are in each."""
    seeds = {keyid: os.urandom(32)}
    records = []
    for number in range(FORGED):
        payload = HaltPayload(1, os.urandom(16), f"load=={number}", 6, 1, "this was never said")
        records.append(seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)[1])
    parts = [tuple(records[at : at + batch]) for at in range(0, FORGED, batch)]
    return [(len(part), encode_message(Orders(part))) for part in parts]


async def _flood(
    key: KeyFile, frames: Sequence[tuple[int, bytes]], order: dict[str, Any]
) -> tuple[int, int, float]:
    client = PeerClient(credentials_of(key), Clock(), Budget(0))
    began, sent, talks, turn = time.monotonic(), 0, 0, 0
    ends = began + order["seconds"]
    junk = asyncio.ensure_future(_junk(frames)) if order["index"] == 0 else None
    while time.monotonic() < ends:
        try:
            _, talk = await client.dial("127.0.0.1", order["port"], role=Role.MIRROR)
        except FiredoorError:
            await asyncio.sleep(TURN_S)
            continue
        talks += 1
        hearing = asyncio.ensure_future(_hear(talk))
        talk.send(encode_message(Hello(bytes(32), 0)))
        while not hearing.done() and time.monotonic() < ends:
            ahead = sent / order["per_s"] - (time.monotonic() - began)
            if ahead > 0:
                await asyncio.wait({hearing}, timeout=ahead)
                continue
            count, frame = frames[turn % len(frames)]
            turn += 1
            if not talk.send(frame):
                break
            sent += count
            await asyncio.wait({hearing}, timeout=TURN_S)
        talk.close()
        await hearing
    if junk is not None:
        junk.cancel()
        with suppress(asyncio.CancelledError):
            await junk
    await client.close()
    return sent, talks, time.monotonic() - began


async def _hear(talk: Any) -> None:
    async for _ in talk.frames():
        pass


async def _junk(frames: Sequence[tuple[int, bytes]]) -> None:
    """Datagrams of a halt's size to where halts are said, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        while True:
            for _ in range(JUNK_PER_S // 50):
                with suppress(OSError):
                    sender.sendto(os.urandom(250), (GROUP, PORT))
            await asyncio.sleep(1 / 50)

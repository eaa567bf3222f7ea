"""Holds as many unfinished connections to one port as it is told to, and opens new ones for each
that is ended, until it is killed. Writes one line once every place has been tried.

Arguments: HOST PORT COUNT KEY PATH KIND...; KEY is a key file whose certificate is shown, or "-".
"""

import asyncio
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import uvloop

from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of
from tests.attacks.burdens import any_context, read_to_end, request_head, unnamed

# New connections in a second, so that the attacker leaves the cores to those whom it attacks.
OPENED_PER_S = 400

# For an answer to what has just been opened; a server without descriptors gives none.
OPEN_S = 5.0


def first_words(kind: str, path: str) -> bytes:
    """What is sent on a connection before it falls silent."""
    whole = request_head(path, "Content-Length: 100")
    words = {
        "silent": b"",
        "header": whole[:-2],
        "body": whole + b"{",
        "idle": request_head(path, "Content-Length: 2") + b"{}",
    }
    return words[kind]


async def hold(
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    words: bytes,
    *,
    turn: asyncio.Lock,
    tried: asyncio.Semaphore,
) -> None:
    """Keep one place taken, for ever."""
    while True:
        async with turn:
            await asyncio.sleep(1 / OPENED_PER_S)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(OPEN_S):
                reader, writer = await asyncio.open_connection(*address, ssl=context)
            writer.write(words)
            tried.release()
            await read_to_end(reader)
            writer.transport.abort()
            continue
        tried.release()


async def main(
    address: tuple[str, int], count: int, key: str, path: str, kinds: Sequence[str]
) -> None:
    """Hold `count` connections, in turns of each kind."""
    context = any_context()
    if key != "-":
        context = unnamed(client_context(credentials_of(read_key_file(Path(key), str))))
    turn, tried = asyncio.Lock(), asyncio.Semaphore(0)
    holding = [
        asyncio.ensure_future(
            hold(
                address,
                None if kind == "silent" else context,
                first_words(kind, path),
                turn=turn,
                tried=tried,
            )
        )
        for _, kind in zip(range(count), cycle(kinds), strict=False)
    ]
    for _ in holding:
        await tried.acquire()
    print("held", flush=True)
    await asyncio.gather(*holding)


if __name__ == "__main__":
    _, host, port, count, key, path, *kinds = sys.argv
    uvloop.run(main((host, int(port)), int(count), key, path, kinds))

"""Reads one manifest as a mirror and an endpoint do; says what became of it and what it cost.

Arguments: ROOT FOLDER FILE: a fleet's first root, an empty folder, and the manifest. Writes JSON:
`end`, the resident megabytes `before`, the `most`, the `most_of_children`, and for how long the
loop was silent, `silent_s`.
"""

import asyncio
import json
import os
import resource
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import uvloop

from firedoor.errors import FiredoorError
from firedoor.pieces.manifest_reading import NORMAL
from firedoor.runtime.clocks import Clock
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.keys import register
from tests.attacks.burdens import forget_peak, peak_mb_of, resident_mb_of


def peak_of_children_mb() -> float:
    """The most that one of them had resident."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


async def look(silences: list[float]) -> None:
    """Note how late each turn of the loop comes."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        silences.append(time.monotonic() - began)


async def main(root: bytes, folder: Path, file: Path) -> None:
    """Read it once."""
    register()
    data = file.read_bytes()
    digest = sha256(data).hexdigest()
    entry = ReleaseEntry("bomb", "1.0", digest, len(data), 1, bytes(32), "files", "main")

    async def get(path: str, limit: int) -> bytes:
        return data

    fleet = fleet_of(root)
    catalogue = Catalogue(folder, root=root, fleet=fleet, clock=Clock(), bound=NORMAL)
    silences: list[float] = [0.0]
    looking = asyncio.ensure_future(look(silences))
    before = resident_mb_of(os.getpid())
    forget_peak(os.getpid())
    try:
        await catalogue.manifest(entry, get)
        end = "read"
    except FiredoorError as error:
        end = type(error).__name__
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    said = {
        "end": end,
        "before": before,
        "most": peak_mb_of(os.getpid()),
        "most_of_children": peak_of_children_mb(),
        "silent_s": max(silences),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    _, root, folder, file = sys.argv
    uvloop.run(main(Path(root).read_bytes(), Path(folder), Path(file)))

"""`firedoor-agent fetch`: one verified release into a folder, nothing installed."""

import asyncio
from pathlib import Path

from firedoor.errors import Malformed, Unavailable
from firedoor.halt.brake import Gate
from firedoor.identity import checked_name
from firedoor.runtime.host.host import Host
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.storage.tree import write_tree

# Signed metadata and an order sync must be had within this; a thin branch takes a few seconds.
SYNC_SPAN_S = 60.0

LOOK_S = 0.05


async def fetch_release(host: Host, product: str, version: str, out: Path, linger: float) -> None:
    """Fetch `product` at `version`, or its newest release that is not halted, into `out`.

    Raises:
        Malformed: a name that cannot be one, or `out` exists.
        Unavailable: no mirror, or no such release.
        Halted: the brake denies it.
    """
    checked_name("product", product)
    if out.exists():
        raise Malformed("--out", wanted="a folder that does not exist yet", got=str(out))
    entry = await _entry(host, product, version)
    await _leased(host, entry)
    await host.acquire(entry, host.getter(None))
    while not host.node.is_whole(entry.manifest):
        host.node.require(Gate.FETCH, entry.manifest)
        if entry.manifest in host.fetching.no_room:
            raise Unavailable(entry.product, why=host.fetching.no_room[entry.manifest])
        await asyncio.sleep(LOOK_S)
    manifest = await host.catalogue.manifest(entry, host.getter(None))
    await asyncio.to_thread(
        write_tree,
        manifest,
        host.store.get,
        old={},
        target=out,
        may_go_on=lambda: host.node.require(Gate.FETCH, entry.manifest),
    )
    print(f"{entry.product} {entry.version}: verified, in {out}")  # noqa: T201  # the answer
    await asyncio.sleep(linger)


async def _leased(host: Host, entry: ReleaseEntry) -> None:
    """Wait until pieces may move here.

    Raises:
        Halted: the brake denies it.
        Unavailable: nobody proves in time that no order is missing here.
    """
    try:
        async with asyncio.timeout(SYNC_SPAN_S):
            while not host.may_start(Gate.FETCH, entry.manifest):
                host.node.require(Gate.FETCH, entry.manifest)
                await asyncio.sleep(LOOK_S)
    except TimeoutError as error:
        raise host.node.no_lease() from error


async def _entry(host: Host, product: str, version: str) -> ReleaseEntry:
    try:
        async with asyncio.timeout(SYNC_SPAN_S):
            while not (host.node.is_reconciled and host.catalogue.releases):
                await asyncio.sleep(LOOK_S)
    except TimeoutError as error:
        why = f"no mirror gave signed metadata and its orders within {SYNC_SPAN_S:.0f} s"
        raise Unavailable(product, why=why) from error
    found = [
        entry
        for entry in host.catalogue.releases
        if entry.product == product and version in {"", entry.version}
    ]
    open_ones = [entry for entry in found if host.node.permits(Gate.FETCH, entry.manifest)]
    chosen = open_ones or found
    if not chosen:
        raise Unavailable(f"{product}=={version}" if version else product, why="no such release")
    return max(chosen, key=lambda entry: entry.counter)

"""Copies of the halts in force beside what they are about, in a product's own root.

A state folder that is restored from before a halt, or lost, does not take them along: the agent
admits them again at its next start, and the boot guard reads them. Each is the order's own bytes,
so whoever reads it can check it.

The product's own programs may write there. What is no regular file of an order's size is left out
and said; no link is followed, and reading never waits (runtime/folders.py).
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from agent.guard.guard import TOMBSTONES
from firedoor.errors import FiredoorError, Refused
from firedoor.halt.order import Halt
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.runtime.folders import Folder, below, open_folder
from firedoor.runtime.host.host import Host
from firedoor.runtime.logs import log

# Halts in force at one time; beyond these the order log alone has them.
TOMBSTONES_MAX = 256

# Files that are looked at: junk of the right name must not push the real ones out.
_LOOKED_AT_MAX = 16 * TOMBSTONES_MAX

# Ours, and whatever looks like one: what somebody else has put there is read last, and said.
_NAME = re.compile(r"[0-9a-f]{64}\.order")
_LIKE = re.compile(r".*\.order")

# A disk that hangs must not keep an endpoint from obeying.
_READ_SPAN_S = 10.0

# Of what could not be read, so many names are said.
_SAID_MAX = 3


class Tombstones:
    """Those of one product. Blocking, so callers use a thread. `unread`: why some could not be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.unread = ""

    def read(self) -> list[bytes]:
        """The orders that lie there."""
        found: list[bytes] = []
        failures: list[str] = []
        try:
            with open_folder(self._root) as root, below(root, *TOMBSTONES.parts) as folder:
                if folder is not None:
                    found, failures = _read_all(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            failures = [f"{self._root / TOMBSTONES}: {error.strerror or error}"]
        self.unread = _sentence(failures)
        if self.unread:
            log("tombstones-unread", level="error", why=self.unread, do="remove what is there")
        return found

    def keep(self, halts: Iterable[Halt], is_known: Callable[[bytes], bool]) -> None:
        """Have these lie there, durably; what cannot be written is said.

        Others are removed once `is_known`, and so were lifted: one that is not may be all that is
        left of a halt.
        """
        wanted = {f"{halt.id.hex()}.order": halt.record for halt in [*halts][:TOMBSTONES_MAX]}
        try:
            with (
                open_folder(self._root) as root,
                below(root, *TOMBSTONES.parts, is_made=bool(wanted)) as folder,
            ):
                if folder is not None:
                    _keep_all(folder, wanted, is_known)
        except (OSError, FiredoorError) as error:
            log("tombstone-not-kept", level="error", why=str(error), do="mend the product's root")


def _read_all(folder: Folder) -> tuple[list[bytes], list[str]]:
    found: list[bytes] = []
    failures: list[str] = []
    names = sorted(folder.names(_LIKE), key=lambda name: (not _NAME.fullmatch(name), name))
    for name in names[:_LOOKED_AT_MAX]:
        try:
            record = folder.read(name, ORDER_BYTES_MAX)
        except FiredoorError as error:
            failures.append(str(error))
            continue
        if record is not None:
            found.append(record)
    return found, failures


def _keep_all(folder: Folder, wanted: dict[str, bytes], is_known: Callable[[bytes], bool]) -> None:
    for name, record in wanted.items():
        held = None
        # What stands there in its place is replaced, a folder excepted.
        with suppress(FiredoorError):
            held = folder.read(name, ORDER_BYTES_MAX)
        if held != record:
            folder.write(name, record, 0o600)
    others = [name for name in folder.names(_NAME) if name not in wanted]
    gone = [name for name in others if is_known(bytes.fromhex(name.partition(".")[0]))]
    for name in gone:
        folder.remove(name)
    if gone:
        folder.sync()


def _sentence(failures: list[str]) -> str:
    if not failures:
        return ""
    more = f", and {len(failures) - _SAID_MAX} more" if len(failures) > _SAID_MAX else ""
    return f"halts beside the product cannot be read: {'; '.join(failures[:_SAID_MAX])}{more}"


async def admit_tombstones(tombstones: Tombstones, host: Host, product: str) -> None:
    """Admit the halts that lie beside a product: the state folder may be an older one."""
    try:
        async with asyncio.timeout(_READ_SPAN_S):
            records = await asyncio.to_thread(tombstones.read)
    except TimeoutError:
        log("tombstones-slow", level="error", product=product, do="check the disk")
        return
    for record in records:
        try:
            host.apply(host.node.submit(record, None, host.clock.now()))
        except Refused as error:
            log("tombstone-refused", level="warning", product=product, why=str(error))

"""Copies of the halts in force beside what they are about, in a product's own root.

A state folder that is restored from before a halt, or lost, does not take them along: the agent
admits them again at its next start, and the boot guard reads them. Each is the order's own bytes,
so whoever reads it can check it.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from agent.guard import TOMBSTONES
from firedoor.errors import Unavailable
from firedoor.halt.order import Halt
from firedoor.runtime.files import durable_write, sync_folder
from firedoor.runtime.logs import log

# Halts in force at one time; beyond these the order log alone has them.
TOMBSTONES_MAX = 256


class Tombstones:
    """Those of one product. Blocking, so callers use a thread."""

    def __init__(self, root: Path) -> None:
        self._folder = root / TOMBSTONES

    def read(self) -> list[bytes]:
        """The orders that lie there."""
        if not self._folder.is_dir():
            return []
        return [path.read_bytes() for path in sorted(self._folder.glob("*.order"))[:TOMBSTONES_MAX]]

    def keep(self, halts: Iterable[Halt], known: Collection[bytes]) -> None:
        """Have these lie there, durably; what cannot be written is said.

        Others are removed once they are `known`, and so were lifted: one that is not may be all
        that is left of a halt.
        """
        wanted = {halt.id.hex(): halt.record for halt in [*halts][:TOMBSTONES_MAX]}
        try:
            if wanted:
                self._folder.mkdir(parents=True, exist_ok=True)
            have = {path.stem: path for path in self._folder.glob("*.order")}
            for name in wanted.keys() - have.keys():
                durable_write(self._folder / f"{name}.order", wanted[name], 0o600)
            lifted = (have.keys() - wanted.keys()) & {each.hex() for each in known}
            for name in lifted:
                have[name].unlink(missing_ok=True)
            if lifted:
                sync_folder(self._folder)
        except (OSError, Unavailable) as error:
            log("tombstone-not-kept", level="error", why=str(error), do="free disk space")

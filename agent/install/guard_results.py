"""What the boot guard took back because it did not stay up: never installed again.

The guard runs before a product starts, and also while this agent runs, when a program is started
again; so its file is read whenever it has changed.
"""

import json
from pathlib import Path

from agent.install.journal import Journal
from firedoor.errors import FiredoorError
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log

# What the guard remembers is a few lines for each product.
GUARD_BYTES_MAX = 1 << 20


class GuardResults:
    """The results in one `guard.json`, as far as a journal does not have them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_at = 0

    def apply_to(self, journal: Journal) -> None:
        """Mark as failed what crashed, unless the file is as at the last call."""
        try:
            changed_at = self._path.lstat().st_mtime_ns
            if changed_at == self._changed_at:
                return
            self._changed_at = changed_at
            table = json.loads(read_regular(self._path, GUARD_BYTES_MAX))
            steps = {name: row["last"] for name, row in table.items() if "last" in row}
            contents = [journal.content_of(str(each["from"])) for each in steps.values()]
            crashed = [not each["is_halted"] for each in steps.values()]
        except FileNotFoundError:
            return
        # Deep brackets make json raise RecursionError.
        except (
            *(FiredoorError, OSError, ValueError, KeyError, TypeError),
            *(AttributeError, RecursionError),
        ) as error:
            log("guard-unreadable", level="warning", why=str(error))
            return
        for product, content, is_crash in zip(steps, contents, crashed, strict=True):
            if content is not None and is_crash:
                journal.add_failed(str(product), content)

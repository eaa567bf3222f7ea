"""Small SQLite files of what others have claimed: durable where the disk lets them, else in memory.

A mirror must relay orders whatever its disk does, and whoever claimed something says it again.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firedoor.runtime.logs import log


class Claims:
    """One such file. `rows`: what `query` found when it was opened."""

    def __init__(self, path: Path, *, table: str, query: str) -> None:
        """Open it, and make its `table` if missing.

        A file that cannot be used is left as it is and said; what comes then lives in memory.
        """
        # A thread may still write when the program ends: that SQLite does not bear.
        self._lock = threading.Lock()
        self.rows: list[Any]
        try:
            self._base, self.rows = _opened(str(path), table, query)
        except sqlite3.Error as error:
            log("claims-not-kept", level="error", why=f"{path}: {error}", do="mend or remove it")
            self._base, self.rows = _opened(":memory:", table, query)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, for one thread at a time; undone where the body raises."""
        with self._lock, self._base:
            self._base.execute("BEGIN")
            yield self._base

    def close(self) -> None:
        """Let go of the file, once nobody is at it."""
        with self._lock:
            self._base.close()


def _opened(path: str, table: str, query: str) -> tuple[sqlite3.Connection, list[Any]]:
    base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute(table)
        rows = base.execute(query).fetchall()
    except sqlite3.Error:
        base.close()
        raise
    return base, rows

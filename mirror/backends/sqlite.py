"""Small SQLite files of what others have said: durable where the disk lets them, else in memory.

A mirror must relay orders whatever its disk does, and whoever said something says it again.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firedoor.runtime.logs import log


class KeptRows:
    """One such file, written in threads."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        # A thread may still write when the program ends, and SQLite crashes if it is closed then.
        self._lock = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, for one thread at a time; undone where the body raises."""
        with self._lock, self._database:
            self._database.execute("BEGIN")
            yield self._database

    def close(self) -> None:
        """Let go of the file, once nobody is at it."""
        with self._lock:
            self._database.close()


def opened(path: Path, *, tables: str, query: str) -> tuple[KeptRows, list[Any]]:
    """The file at `path`, its `tables` (SQL) made if missing, and the rows of `query`.

    A file that cannot be used is left as it is and said; what comes then lives in memory.
    """
    try:
        database, rows = _opened(str(path), tables, query)
    except sqlite3.Error as error:
        log("claims-not-kept", level="error", why=f"{path}: {error}", do="mend or remove it")
        database, rows = _opened(":memory:", tables, query)
    return KeptRows(database), rows


def _opened(path: str, tables: str, query: str) -> tuple[sqlite3.Connection, list[Any]]:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(tables)
        rows = database.execute(query).fetchall()
    except sqlite3.Error:
        database.close()
        raise
    return database, rows

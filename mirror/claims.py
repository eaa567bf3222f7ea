"""Small SQLite files of what others have claimed: durable where the disk lets them, else in memory.

A mirror must relay orders whatever its disk does, and whoever claimed something says it again.
"""

import sqlite3
from pathlib import Path
from typing import Any

from firedoor.runtime.logs import log


def opened(path: Path, *, table: str, query: str) -> tuple[sqlite3.Connection, list[Any]]:
    """The base at `path`, its `table` made if missing, and the rows of `query`.

    A file that cannot be used is left as it is and said; what comes then lives in memory.
    """
    try:
        return _opened(str(path), table, query)
    except sqlite3.Error as error:
        log("claims-not-kept", level="error", why=f"{path}: {error}", do="mend or remove it")
        return _opened(":memory:", table, query)


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

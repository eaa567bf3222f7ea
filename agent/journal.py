"""What an endpoint must remember through a crash: phases, the last good version, failed contents.

SQLite with `synchronous=FULL`: a write is durable before the side effect that it announces begins.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent.lifecycle import Phase
from firedoor.errors import Malformed, Unavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS phases (product TEXT PRIMARY KEY, phase TEXT NOT NULL,
  manifest TEXT NOT NULL, previous TEXT NOT NULL, good TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failed (content BLOB PRIMARY KEY);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One product: its phase, the release that it is about, the one before, the last good one."""

    phase: Phase = Phase.IDLE
    manifest: str = ""
    previous: str = ""
    good: str = ""


class Journal:
    """One database file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise Malformed(str(path), wanted="a journal", got=str(error)) from error

    def read(self, product: str) -> Entry:
        """What is known of a product; an idle entry when nothing is."""
        query = "SELECT phase, manifest, previous, good FROM phases WHERE product = ?"
        row = self._database.execute(query, (product,)).fetchone()
        if row is None:
            return Entry()
        return Entry(Phase(row[0]), *row[1:])

    def write(self, product: str, entry: Entry) -> None:
        """Make an entry durable.

        Raises:
            Unavailable: the disk is full; what the entry announces must not begin.
        """
        row = (product, entry.phase.value, entry.manifest, entry.previous, entry.good)
        self._run("INSERT OR REPLACE INTO phases VALUES (?, ?, ?, ?, ?)", row)

    def add_failed(self, content: bytes) -> None:
        """This content digest is never installed again here; raises as `write`."""
        self._run("INSERT OR IGNORE INTO failed VALUES (?)", (content,))

    def failed(self) -> frozenset[bytes]:
        """The content digests that failed here."""
        rows = self._database.execute("SELECT content FROM failed").fetchall()
        return frozenset(bytes(row[0]) for row in rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _run(self, statement: str, row: tuple[str | bytes, ...]) -> None:
        try:
            self._database.execute(statement, row)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"writing {self._path}", why=str(error)) from error

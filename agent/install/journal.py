"""What an endpoint must remember through a crash: phases, the last good version, failed contents.

SQLite with `synchronous=FULL`: a write is durable before the side effect that it announces begins.
A damaged file is `Malformed` and names itself, whenever that is noticed: what it would have said
about good and failed releases is unknown then, so the caller must install nothing.
"""

import sqlite3
import threading
from pathlib import Path
from typing import Any

from agent.decisions.lifecycle import Entry, Phase
from firedoor.errors import Malformed, Unavailable
from firedoor.halt.scope import Subject
from firedoor.runtime.folders import require_regular

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS phases (product TEXT PRIMARY KEY, phase TEXT NOT NULL,
    manifest TEXT NOT NULL, good TEXT NOT NULL, earlier TEXT NOT NULL)""",
    # Of version 0.1, which told no product from another.
    "CREATE TABLE IF NOT EXISTS failed (content BLOB PRIMARY KEY)",
    """CREATE TABLE IF NOT EXISTS failed_of (product TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (product, content)) WITHOUT ROWID""",
    # For the boot guard, which reads no manifest: `files` is one digest of 32 bytes after another.
    """CREATE TABLE IF NOT EXISTS releases (manifest TEXT PRIMARY KEY, product TEXT NOT NULL,
    version TEXT NOT NULL, content BLOB NOT NULL, files BLOB NOT NULL, counter INTEGER NOT NULL,
    newest INTEGER NOT NULL, floor INTEGER NOT NULL)""",
)


class Journal:
    """One database file.

    Raises:
        Malformed: on opening, the file is no journal or is damaged.
        Unavailable: it cannot be opened, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A thread may be at it when the program ends, and SQLite crashes if it is closed then.
        self._lock = threading.Lock()
        self._is_closed = False
        # SQLite opens by name, and would wait for a pipe for ever.
        for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            require_regular(each)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise Unavailable(f"opening {path}", why=str(error)) from error
        try:
            self._open()
        except BaseException:
            self._database.close()
            raise

    def read(self, product: str) -> Entry:
        """What is known of a product; an idle entry when nothing is.

        Raises:
            Malformed: the file is damaged, or names a phase that does not exist.
        """
        query = "SELECT phase, manifest, good, earlier FROM phases WHERE product = ?"
        rows = self._rows(query, (product,))
        if not rows:
            return Entry()
        phase, *manifests = rows[0]
        if phase not in {each.value for each in Phase}:
            raise Malformed(str(self._path), wanted="a phase", got=repr(phase)[:80])
        return Entry(Phase(phase), *map(str, manifests))

    def write(self, product: str, entry: Entry) -> None:
        """Make an entry durable.

        Raises:
            Unavailable: the disk is full; what the entry announces must not begin.
            Malformed: the file is damaged.
        """
        row = (product, entry.phase.value, entry.manifest, entry.good, entry.earlier)
        self._rows("INSERT OR REPLACE INTO phases VALUES (?, ?, ?, ?, ?)", row)

    def add_failed(self, product: str, content: bytes) -> None:
        """Remember a content digest of which this product is never made again; raises as `write`.

        Whose bytes failed as one product says nothing of another: its checks are its publisher's.
        """
        self._rows("INSERT OR IGNORE INTO failed_of VALUES (?, ?)", (product, content))

    def failed(self, product: str) -> frozenset[bytes]:
        """The content digests that failed as this product; raises as `read`."""
        query = "SELECT content FROM failed UNION SELECT content FROM failed_of WHERE product = ?"
        return frozenset(bytes(row[0]) for row in self._rows(query, (product,)))

    def know_release(self, manifest: str, subject: Subject, *, newest: int, floor: int) -> None:
        """Note what a release on the disk is, for the guard; raises as `write`.

        `newest`: the product's highest counter; `floor`: the lowest one to step back to.
        """
        files = b"".join(sorted(subject.files))
        facts = (subject.product, subject.version, subject.content, files, subject.counter)
        row = (manifest, *facts, newest, floor)
        self._rows(
            "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (manifest) DO UPDATE"
            " SET files = max(files, excluded.files), counter = max(counter, excluded.counter),"
            " newest = max(newest, excluded.newest), floor = max(floor, excluded.floor)",
            row,
        )

    def floor_of(self, product: str) -> int:
        """The highest floor that was ever known of a product; raises as `read`."""
        query = "SELECT coalesce(max(floor), 0) FROM releases WHERE product = ?"
        return int(self._rows(query, (product,))[0][0])

    def content_of(self, manifest: str) -> bytes | None:
        """The content digest of a release that `know_release` noted; raises as `read`."""
        rows = self._rows("SELECT content FROM releases WHERE manifest = ?", (manifest,))
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the file, once nobody is at it."""
        with self._lock:
            self._is_closed = True
            self._database.close()

    def _open(self) -> None:
        self._rows("PRAGMA journal_mode=WAL")
        self._rows("PRAGMA synchronous=FULL")
        said = self._rows("PRAGMA quick_check")
        if said != [("ok",)]:
            raise Malformed(str(self._path), wanted="a sound journal", got=str(said[:1])[:120])
        for statement in _SCHEMA:
            self._rows(statement)

    def _rows(
        self, statement: str, row: tuple[str | bytes | int, ...] = ()
    ) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                if self._is_closed:
                    raise Unavailable(f"the journal {self._path}", why="it is closed")
                return self._database.execute(statement, row).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the journal {self._path}", why=str(error)) from error
        except sqlite3.DatabaseError as error:
            raise Malformed(str(self._path), wanted="a sound journal", got=str(error)) from error

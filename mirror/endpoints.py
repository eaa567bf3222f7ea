"""What the endpoints below this mirror last said of themselves, kept through a restart.

A report is a claim, not a proof; of each endpoint the newest counts. Memory is what is asked; the
file follows within a second or so, for a lost report is said again within half a minute.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from firedoor.errors import Refused
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import ENDPOINTS_MAX, FRAME_BYTES_MAX
from firedoor.runtime.logs import log
from firedoor.units import UnixTime
from firedoor.wire.codec import decode, pack
from firedoor.wire.messages import Report
from firedoor.wire.versions import SPOKEN, fields_for
from mirror.kept_rows import opened

_TABLE = """CREATE TABLE IF NOT EXISTS endpoints (
  id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, report BLOB NOT NULL) STRICT"""

# A thousand endpoints that report at once become one transaction.
FLUSH_S = 1.0


Row = dict[str, Any]


class Endpoints:
    """The newest report of each endpoint, in one SQLite file; in memory where that fails."""

    def __init__(self, path: Path) -> None:
        self._reports: dict[PeerId, tuple[Report, UnixTime]] = {}
        self._senders: dict[PeerId, PeerId] = {}
        self._unsaved: set[PeerId] = set()
        query = "SELECT seen_at, report FROM endpoints"
        self._kept, rows = opened(path, table=_TABLE, query=query)
        for seen_at, data in rows:
            self._load(UnixTime(seen_at), data)

    def close(self) -> None:
        """Save what is not yet, and let go of the file."""
        self._save(self._unsaved_rows())
        self._kept.close()

    def take(self, reports: Iterable[Report], sender: PeerId, now: UnixTime) -> None:
        """`sender` has just brought these. Above ENDPOINTS_MAX only known endpoints are kept."""
        for report in reports:
            peer = PeerId(report.id)
            if peer in self._reports or len(self._reports) < ENDPOINTS_MAX:
                self._reports[peer] = (report, UnixTime(now - report.age_s))
                self._senders[peer] = sender
                self._unsaved.add(peer)

    def lost(self, sender: PeerId, now: UnixTime) -> tuple[Report, ...]:
        """This peer is no longer connected; what to pass on of all whom it spoke for."""
        gone = [peer for peer, each in self._senders.items() if each == sender]
        known = [self._reports[peer] for peer in gone]
        reports = [
            replace(report, is_connected=False, age_s=_age(seen, now)) for report, seen in known
        ]
        self.take(reports, sender, now)
        return tuple(reports)

    def reports(self, now: UnixTime) -> tuple[Report, ...]:
        """The newest report of each endpoint, in order of id, with its age."""
        return tuple(replace(report, age_s=_age(seen, now)) for report, seen in self._sorted())

    def heard(self) -> list[tuple[Report, UnixTime]]:
        """The newest report of each endpoint and when it was said, in order of id."""
        return self._sorted()

    def table(self, connected: Iterable[PeerId], enrolled: Iterable[Report]) -> list[Row]:
        """The `endpoints` of a status. `enrolled`: those who should be there, heard of or not."""
        here = set(connected)
        silent = [(each, UnixTime(0)) for each in enrolled if each.id not in self._reports]
        rows = [_row(report, seen) for report, seen in [*self._sorted(), *silent]]
        # Those whom a mirror below speaks for are connected to it, not here.
        for row in rows:
            row["is_connected"] = row["is_connected"] or row["id"] in here
        return rows

    async def keep_saving(self) -> None:
        """Write what is new to the file, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            rows = self._unsaved_rows()
            if rows:
                await asyncio.to_thread(self._save, rows)

    def _sorted(self) -> list[tuple[Report, UnixTime]]:
        return [self._reports[peer] for peer in sorted(self._reports)]

    def _unsaved_rows(self) -> list[tuple[PeerId, UnixTime, bytes]]:
        peers, self._unsaved = self._unsaved, set()
        pairs = [(peer, self._reports[peer]) for peer in sorted(peers)]
        return [(peer, seen_at, _stored(report)) for peer, (report, seen_at) in pairs]

    def _save(self, rows: list[tuple[PeerId, UnixTime, bytes]]) -> None:
        try:
            with self._kept.writing() as database:
                database.executemany("INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            # They are said again within half a minute.
            log("reports-not-saved", level="error", why=str(error), do="free disk space")

    def _load(self, seen_at: UnixTime, data: bytes) -> None:
        try:
            report = decode(Report, data, what="kept report", limit=FRAME_BYTES_MAX)
        except Refused as error:
            log("kept-report-refused", level="warning", why=str(error))
            return
        self._reports[PeerId(report.id)] = (replace(report, is_connected=False), seen_at)


def believable(
    reports: tuple[Report, ...], sender: Peer, *, is_upstream: bool
) -> tuple[Report, ...]:
    """Those that `sender` may make: an agent's of itself, a mirror's of whom it has below it.

    What its certificate says stands above what it says of itself.
    """
    if sender.role is Role.MIRROR:
        return () if is_upstream else reports
    own = [report for report in reports if report.id == sender.id and sender.role is Role.AGENT]
    return tuple(
        replace(one, role=sender.role.value, site=sender.site, age_s=0, is_connected=True)
        for one in own[:1]
    )


def _stored(report: Report) -> bytes:
    """A report as the version before this one reads it too, for a program may be set back."""
    return pack(fields_for(SPOKEN - 1, report))


def _age(seen_at: UnixTime, now: UnixTime) -> int:
    return max(0, now - seen_at)


def _row(report: Report, seen_at: UnixTime) -> Row:
    return {
        "id": report.id,
        "site": report.site,
        "version": report.version,
        "seen_at": seen_at,
        "is_connected": report.is_connected and seen_at > 0,
        "orders": list(report.orders),
        "products": [
            {
                "product": product.product,
                "version": product.version,
                "manifest": product.manifest,
                "phase": product.phase,
                "detail": product.detail,
            }
            for product in report.products
        ],
    }

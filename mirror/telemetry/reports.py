"""What the endpoints below this mirror last said of themselves, kept through a restart.

A report is a claim, not a proof; claims.py says which may be kept, and which takes the place of
which. Memory is what is asked; the file follows within a second or so, for a lost report is said
again within half a minute.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firedoor.errors import Refused
from firedoor.identity import Peer, PeerId
from firedoor.limits import (
    ENDPOINTS_MAX,
    FRAME_BYTES_MAX,
    REPORT_BYTES_MAX,
    UNPROVED_PER_SENDER_MAX,
)
from firedoor.runtime.logs import log
from firedoor.units import UnixTime
from firedoor.wire.codec import decode, pack
from firedoor.wire.messages import Report
from firedoor.wire.versions import SPOKEN, fields_for
from mirror.backends.sqlite import opened
from mirror.telemetry.claims import Claim, Judge, Worth, replaces

# Of the proofs a table of their own: version 0.1 writes three columns into the first.
_TABLES = """
CREATE TABLE IF NOT EXISTS endpoints (
  id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, report BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS proofs (
  id TEXT PRIMARY KEY, worth INTEGER NOT NULL, said_at INTEGER NOT NULL,
  signature BLOB NOT NULL, certificate BLOB NOT NULL) STRICT;
"""

_QUERY = """SELECT seen_at, report, coalesce(worth, 0), coalesce(said_at, 0),
  coalesce(signature, x''), coalesce(certificate, x'')
  FROM endpoints LEFT JOIN proofs USING (id)"""

# A thousand endpoints that report at once become one transaction.
FLUSH_S = 1.0

# Room in a report for what a relay changes: its age, and whether it is connected.
_RELAYED_BYTES = 16


Row = dict[str, Any]


@dataclass(slots=True)
class Refusals:
    """Reports that were not kept: above REPORT_BYTES_MAX, not this sender's to make, no room."""

    too_large: int = 0
    not_theirs: int = 0
    no_room: int = 0


class Endpoints:
    """The newest claim about each endpoint, in one SQLite file; in memory where that fails."""

    def __init__(self, path: Path, judge: Judge) -> None:
        self._judge = judge
        self._claims: dict[PeerId, Claim] = {}
        # How many endpoints of each sender nothing proves.
        self._unproved: dict[PeerId, int] = {}
        self._unsaved: set[PeerId] = set()
        self.refusals = Refusals()
        self._kept, rows = opened(path, tables=_TABLES, query=_QUERY)
        for seen_at, data, *proof in rows:
            self._load(UnixTime(seen_at), data, proof)

    def close(self) -> None:
        """Save what is not yet, and let go of the file."""
        self._save(self._unsaved_rows())
        self._kept.close()

    def take(
        self, reports: Iterable[Report], sender: Peer, here: Collection[PeerId], now: UnixTime
    ) -> list[PeerId]:
        """`sender` has just brought these; whose claims are new by them.

        `here`: who is connected to this mirror itself, and so speaks for itself.
        """
        return [
            PeerId(report.id)
            for report in reports
            if self._take_one(report, sender, here, now) is not None
        ]

    def lost(self, sender: PeerId) -> list[PeerId]:
        """This peer is no longer connected; all whom it spoke for."""
        gone = [peer for peer, claim in self._claims.items() if claim.sender == sender]
        for peer in gone:
            claim = self._claims[peer]
            self._keep(peer, replace(claim, report=replace(claim.report, is_connected=False)))
        return gone

    def forget_senders(self, is_banned: Callable[[PeerId], bool]) -> None:
        """Forget what banned machines have said, of themselves and of others."""
        for peer, claim in [*self._claims.items()]:
            if is_banned(claim.sender) or is_banned(peer):
                self._forget(peer)

    def all(self) -> list[PeerId]:
        """Everybody of whom something is known, in order of id."""
        return sorted(self._claims)

    def report(self, peer: PeerId, now: UnixTime) -> Report | None:
        """The newest report of an endpoint, with its age and without its certificate."""
        claim = self._claims.get(peer)
        if claim is None:
            return None
        return replace(claim.report, age_s=_age(claim.seen_at, now))

    def certificate(self, peer: PeerId) -> bytes:
        """The certificate of an endpoint, in DER, if it came with a report."""
        claim = self._claims.get(peer)
        return claim.certificate if claim is not None else b""

    def heard(self) -> list[tuple[Report, UnixTime]]:
        """The newest report of each endpoint and when it was said, in order of id."""
        claims = [self._claims[peer] for peer in self.all()]
        return [(claim.report, claim.seen_at) for claim in claims]

    def table(self, connected: Iterable[PeerId], enrolled: Iterable[Report]) -> list[Row]:
        """The `endpoints` of a status. `enrolled`: those who should be there, heard of or not."""
        here = set(connected)
        silent = [(each, UnixTime(0)) for each in enrolled if each.id not in self._claims]
        rows = [_row(report, seen) for report, seen in [*self.heard(), *silent]]
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

    def _take_one(
        self, report: Report, sender: Peer, here: Collection[PeerId], now: UnixTime
    ) -> Claim | None:
        if size_of(report) > REPORT_BYTES_MAX - _RELAYED_BYTES:
            self.refusals.too_large += 1
            return None
        peer = PeerId(report.id)
        known = self._claims.get(peer)
        claim = self._judge.claim(report, sender, known, now)
        # Whoever is connected here speaks for itself, whatever a mirror says of it.
        if claim is None or (peer in here and claim.worth is not Worth.OWN):
            self.refusals.not_theirs += 1
            return None
        if not replaces(claim, known, now):
            return None
        if known is None and not self._has_room(claim):
            self.refusals.no_room += 1
            return None
        if not claim.certificate and known is not None:
            claim = replace(claim, certificate=known.certificate)
        self._keep(peer, claim)
        return claim

    def _has_room(self, claim: Claim) -> bool:
        unproved = self._unproved.get(claim.sender, 0)
        is_bounded = claim.worth >= Worth.SIGNED or unproved < UNPROVED_PER_SENDER_MAX
        return is_bounded and len(self._claims) < ENDPOINTS_MAX

    def _keep(self, peer: PeerId, claim: Claim) -> None:
        self._forget(peer)
        self._claims[peer] = claim
        if claim.worth < Worth.SIGNED:
            self._unproved[claim.sender] = self._unproved.get(claim.sender, 0) + 1
        self._unsaved.add(peer)

    def _forget(self, peer: PeerId) -> None:
        known = self._claims.pop(peer, None)
        self._unsaved.add(peer)
        if known is not None and known.worth < Worth.SIGNED:
            # Of what an earlier run has kept nobody here is the sender.
            left = self._unproved.pop(known.sender, 0) - 1
            if left > 0:
                self._unproved[known.sender] = left

    def _unsaved_rows(self) -> list[tuple[PeerId, Claim | None]]:
        peers, self._unsaved = self._unsaved, set()
        return [(peer, self._claims.get(peer)) for peer in sorted(peers)]

    def _save(self, rows: list[tuple[PeerId, Claim | None]]) -> None:
        gone = [(peer,) for peer, claim in rows if claim is None]
        kept = [(peer, claim) for peer, claim in rows if claim is not None]
        reports = [(peer, claim.seen_at, _stored(claim.report)) for peer, claim in kept]
        proofs = [
            (peer, claim.worth, claim.report.said_at, claim.report.signature, claim.certificate)
            for peer, claim in kept
        ]
        try:
            with self._kept.writing() as database:
                database.executemany("DELETE FROM endpoints WHERE id = ?", gone)
                database.executemany("DELETE FROM proofs WHERE id = ?", gone)
                database.executemany("INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)", reports)
                database.executemany("INSERT OR REPLACE INTO proofs VALUES (?, ?, ?, ?, ?)", proofs)
        except sqlite3.Error as error:
            # They are said again within half a minute.
            log("reports-not-saved", level="error", why=str(error), do="free disk space")

    def _load(self, seen_at: UnixTime, data: bytes, proof: list[Any]) -> None:
        try:
            report = decode(Report, data, what="kept report", limit=FRAME_BYTES_MAX)
            worth = Worth(proof[0])
        except (Refused, ValueError) as error:
            log("kept-report-refused", level="warning", why=str(error))
            return
        if size_of(report) > REPORT_BYTES_MAX:
            return  # Version 0.1 kept larger ones; the endpoint says it anew.
        _, said_at, signature, certificate = proof
        report = replace(report, is_connected=False, said_at=said_at, signature=signature)
        self._claims[PeerId(report.id)] = Claim(
            report, seen_at, PeerId(""), min(worth, Worth.SIGNED), certificate
        )


def size_of(report: Report) -> int:
    """The bytes of a report with every field in it, as it is passed on."""
    return len(pack(fields_for(SPOKEN, report)))


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

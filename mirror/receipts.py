"""What endpoints have signed about halts: collected, passed up, and at the origin kept for good.

A mirror takes an agent's receipt of itself, and a mirror's of whom it has below it; it checks the
signature, so that junk goes no further. What is new goes up in one message for many endpoints.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from firedoor.errors import Refused
from firedoor.halt.receipt import Receipt, ReceiptBook, read_receipt
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import RECEIPTS_MAX
from firedoor.runtime.logs import log
from firedoor.wire.messages import Receipts
from mirror.kept_rows import opened

# A thousand endpoints that obey at once become a few messages, and a few transactions.
GATHER_S = 0.05

_TABLE = """CREATE TABLE IF NOT EXISTS receipts (
  halt BLOB NOT NULL, endpoint TEXT NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (halt, endpoint)) STRICT"""


class ReceiptDesk:
    """The receipts at one mirror, in a SQLite file; in memory where that fails."""

    def __init__(self, path: Path, fleet: FleetId) -> None:
        self._fleet = fleet
        self._news: list[Receipt] = []
        self._stirred = asyncio.Event()
        # Whose receipts are kept; None: of every order.
        self._orders: frozenset[bytes] | None = None
        self.book = ReceiptBook()
        self._kept, rows = opened(path, table=_TABLE, query="SELECT record FROM receipts")
        for (record,) in rows:
            try:
                self.book.take(read_receipt(record, fleet))
            except Refused as error:
                log("kept-receipt-refused", level="warning", why=str(error))

    def close(self) -> None:
        """Save what is not yet, and let go of the file."""
        self._save(self._news)
        self._kept.close()

    def take(self, message: Receipts, sender: Peer, orders: frozenset[bytes]) -> None:
        """Receipts came from below, or by stick; those of orders not in force here are left out."""
        for record in message.records:
            try:
                receipt = read_receipt(record, self._fleet)
            except Refused as error:
                log("receipt-refused", level="warning", peer=sender.id, why=str(error))
                return
            is_own = sender.role is Role.AGENT and receipt.endpoint == sender.id
            is_meant = is_own or sender.role in {Role.MIRROR, Role.OPERATOR}
            if is_meant and receipt.order in orders and self.book.take(receipt):
                self._news.append(receipt)
                self._stirred.set()

    def keep_only(self, orders: frozenset[bytes]) -> None:
        """Forget what is said of other orders; the disk follows with what comes next."""
        self.book.keep_only(orders)
        self._orders = orders

    def all(self) -> list[Receipts]:
        """Everything that is known, for an upstream that has just come."""
        return _messages(self.book.all())

    async def keep_passing(
        self, upstream: Callable[[], Iterable[PeerId]], send: Callable[[PeerId, object], None]
    ) -> None:
        """Pass on what is new, and write it down, for ever."""
        while True:
            await self._stirred.wait()
            await asyncio.sleep(GATHER_S)
            self._stirred.clear()
            news, self._news = self._news, []
            for message in _messages(news):
                for peer in upstream():
                    send(peer, message)
            await asyncio.to_thread(self._save, news)

    def _save(self, news: Iterable[Receipt]) -> None:
        rows, orders = [(one.order, one.endpoint, one.record) for one in news], self._orders
        try:
            with self._kept.writing() as database:
                database.executemany("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?)", rows)
                known = database.execute("SELECT DISTINCT halt FROM receipts").fetchall()
                gone = [row for row in known if orders is not None and row[0] not in orders]
                database.executemany("DELETE FROM receipts WHERE halt = ?", gone)
        except sqlite3.Error as error:
            # Endpoints say them again when they or this mirror come back.
            log("receipts-not-saved", level="error", why=str(error), do="free disk space")


def _messages(receipts: list[Receipt]) -> list[Receipts]:
    records = [each.record for each in receipts]
    parts = [records[at : at + RECEIPTS_MAX] for at in range(0, len(records), RECEIPTS_MAX)]
    return [Receipts(tuple(part)) for part in parts]

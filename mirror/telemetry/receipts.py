"""What endpoints have signed about halts: collected, passed up, and at the origin kept for good.

A mirror takes an agent's receipt of itself, and a mirror's of whom it has below it; it checks the
signature, so that junk goes no further. What is new goes up in one message for many endpoints.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from firedoor.errors import Refused
from firedoor.halt.receipt import Receipt, ReceiptBook, read_receipt
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import BULK_FRAME_BYTES, RECEIPT_BYTES_MAX, UNPROVED_PER_SENDER_MAX
from firedoor.runtime.logs import log
from firedoor.wire.messages import Receipts
from mirror.backends.sqlite import opened
from mirror.telemetry.claims import Roll

# A thousand endpoints that obey at once become a few messages, and a few transactions.
GATHER_S = 0.05

# Senders whose endpoints are counted: mirrors right below this one, and people.
_SENDERS_MAX = 256

# Receipts that one upstream is given before what was given leaves: half of what may wait for it.
PASSED_AT_ONCE = 256

_TABLE = """CREATE TABLE IF NOT EXISTS receipts (
  halt BLOB NOT NULL, endpoint TEXT NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (halt, endpoint)) STRICT"""


class ReceiptCollector:
    """The receipts at one mirror, in a SQLite file; in memory where that fails.

    `roll`: at the origin, whom it has enrolled; a receipt of anybody else is no evidence.
    """

    def __init__(self, path: Path, fleet: FleetId, roll: Roll | None = None) -> None:
        self._fleet = fleet
        self._roll = roll
        self._news: list[Receipt] = []
        self._waiting: dict[PeerId, deque[Receipt]] = {}
        self._notified = asyncio.Event()
        # Whose receipts are kept; None: of every order.
        self._orders: frozenset[bytes] | None = None
        self.book = ReceiptBook()
        self.refused = 0
        self._brought: dict[PeerId, set[PeerId]] = {}
        self._kept, rows = opened(path, tables=_TABLE, query="SELECT record FROM receipts")
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
                # One that is bad keeps no other back: a relay passes on what others have sent.
                self.refused += 1
                if self.refused == 1:
                    log("receipt-refused", level="warning", peer=sender.id, why=str(error))
                continue
            is_own = sender.role is Role.AGENT and receipt.endpoint == sender.id
            is_meant = is_own or sender.role in {Role.MIRROR, Role.OPERATOR}
            is_meant &= self._roll is None or self._roll.site_of(receipt.endpoint) is not None
            is_meant &= receipt.order in orders
            is_meant &= is_own or self._roll is not None or self._has_room(receipt, sender.id)
            if is_meant and self.book.take(receipt, is_own=is_own):
                self._news.append(receipt)
                self._notified.set()

    def _has_room(self, receipt: Receipt, sender: PeerId) -> bool:
        """Whether a sender may speak for one more endpoint that nothing proves to be one."""
        brought = self._brought.setdefault(sender, set())
        if len(self._brought) > _SENDERS_MAX:
            del self._brought[next(iter(self._brought))]
        if receipt.endpoint in brought or len(brought) < UNPROVED_PER_SENDER_MAX:
            brought.add(receipt.endpoint)
            return True
        return False

    def keep_only(self, orders: frozenset[bytes]) -> None:
        """Forget what is said of other orders; the disk follows with what comes next."""
        self.book.keep_only(orders)
        self._orders = orders

    def all(self) -> list[Receipts]:
        """Everything that is known, in small messages."""
        return _messages(self.book.all())

    def connected(self, upstream: PeerId) -> None:
        """An upstream has come: everything that is known waits for it."""
        self._waiting[upstream] = deque(self.book.all())
        self._notified.set()

    def gone(self, upstream: PeerId) -> None:
        """A peer has gone; an upstream among them is told anew when it comes back."""
        self._waiting.pop(upstream, None)

    async def keep_passing(
        self, is_idle: Callable[[PeerId], bool], send: Callable[[PeerId, object], object]
    ) -> None:
        """Pass on what is new, and write it down, for ever.

        `is_idle`: whether an upstream has taken what was sent to it before.
        """
        while True:
            await self._notified.wait()
            await asyncio.sleep(GATHER_S)
            self._notified.clear()
            news, self._news = self._news, []
            for peer, waiting in [*self._waiting.items()]:
                waiting.extend(news)
                self._pass(peer, waiting, is_idle, send)
            await asyncio.to_thread(self._save, news)
            if any(self._waiting.values()):
                self._notified.set()

    def _pass(
        self,
        peer: PeerId,
        waiting: deque[Receipt],
        is_idle: Callable[[PeerId], bool],
        send: Callable[[PeerId, object], object],
    ) -> None:
        while waiting and is_idle(peer):
            share = [waiting.popleft() for _ in range(min(len(waiting), PASSED_AT_ONCE))]
            for message in _messages(share):
                send(peer, message)

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
    share = BULK_FRAME_BYTES // RECEIPT_BYTES_MAX
    parts = [records[at : at + share] for at in range(0, len(records), share)]
    return [Receipts(tuple(part)) for part in parts]

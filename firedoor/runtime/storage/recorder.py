"""How records get into the order log: at once while the disk is quick, by a thread where it is not.

* All records of one moment share one write and one fdatasync: of all frames that were there to be
  read when the first of them came, and of all that came while the disk was busy.
* A thread's turn costs five times as much CPU as the write itself, and on a busy machine two turns
  of waiting for a core: with 200 endpoints on two cores p99 of recording was a third higher.
* A disk that hangs costs one turn of the event loop. Nothing moves or starts in it, for the brake
  was closed before, and what was forwarded had left.
* Records get there in the order in which they came, whichever way each takes.
* A full disk is tried again for ever: only the promise to survive a crash waits for it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any

from firedoor.errors import Unavailable
from firedoor.runtime.logs import log
from firedoor.runtime.storage.order_log import Entry, OrderLog

# A full disk is looked at again this often while an order waits to be recorded.
RECORD_AGAIN_S = 1.0


class Recorder:
    """The one writer of a node's order log. `start` runs work under its host's care."""

    def __init__(
        self, order_log: OrderLog, start: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._log = order_log
        self._start = start
        self._writing = asyncio.Lock()
        # What waits for this turn of the loop to end, with what waits for it in turn.
        self._soon: list[tuple[Sequence[Entry], Callable[[], None]]] = []
        # How many writes wait in a thread or for one.
        self._slow = 0

    def keep(self, entries: Sequence[Entry], then: Callable[[], None]) -> None:
        """Make `entries` durable, then do `then`.

        What was sent before leaves first: outboxes are emptied in this turn of the loop, too.
        """
        self._soon.append((entries, then))
        if len(self._soon) == 1:
            asyncio.get_running_loop().call_soon(self._keep_all)

    def _keep_all(self) -> None:
        waiting, self._soon = self._soon, []
        entries = [entry for each, _ in waiting for entry in each]

        def done() -> None:
            # In order, and each whatever becomes of another: what is on the disk must be said.
            with ExitStack() as all_of_them:
                for _, then in reversed(waiting):
                    all_of_them.callback(then)

        is_quick = self._log.is_quick and not self._slow
        if is_quick and self._is_written(entries):
            done()
        else:
            self._slow += 1
            self._start(self._keep_slowly(entries, done))

    async def _keep_slowly(self, entries: Sequence[Entry], then: Callable[[], None]) -> None:
        try:
            async with self._writing:
                while not await asyncio.to_thread(self._is_written, entries):
                    await asyncio.sleep(RECORD_AGAIN_S)
        finally:
            self._slow -= 1
        then()

    def _is_written(self, entries: Sequence[Entry]) -> bool:
        try:
            self._log.append_all(entries)
        except Unavailable as error:
            log("order-not-recorded", level="error", why=str(error), do="free disk space")
            return False
        return True

"""What the boot guard reads of a log that is in memory."""

from collections.abc import Iterable

from agent.guard.records import Orders, read_log, with_tombstones


class InMemory:
    """A log's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, at: int, count: int) -> bytes:
        return self.data[at : at + count]


def read_orders(fleet: str, data: bytes, tombstones: Iterable[bytes]) -> Orders:
    """The orders in a log and beside a product."""
    return with_tombstones(read_log(fleet, InMemory(data)), fleet, tombstones)

"""The transfers that this program serves, and how to cut them.

A cut is a reset. `close()` and even `abort()` let megabytes more arrive, for the kernel goes on to
send its queue; SO_LINGER with zero seconds throws the queue away (swarm/README.md has the figures).
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from firedoor.errors import Unavailable
from firedoor.identity import PeerId
from firedoor.limits import TRANSFERS_MAX, TRANSFERS_PER_PEER_MAX

# Queue in the kernel for one transfer. It bounds what a cut cannot take back, and feeds 100 Mbit/s
# at 10 ms; autotuning would let it grow to megabytes.
_SEND_BUFFER_BYTES = 128 * 1024
_NOT_SENT_BYTES = 32 * 1024

# A reader that takes no 64 KiB within this is gone, or holds a place that others need: a line of
# 16 kbit/s would do better. One timer a transfer: one for each portion would double its cost.
STALLED_S = 30.0

_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class Transfer:
    """One response under way. `has_moved`: bytes have left since somebody last looked."""

    manifest: str
    peer: PeerId
    transport: asyncio.Transport
    is_cut: bool = False
    has_moved: bool = False

    def reset(self) -> None:
        """End it so that nothing of it arrives any more."""
        self.is_cut = True
        # asyncio's TLS transport raises AttributeError once it has been closed; then it is cut.
        with suppress(AttributeError, OSError):
            held = self.transport.get_extra_info("socket")
            if held is not None:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()


class Transfers:
    """All transfers under way."""

    def __init__(self) -> None:
        self._open: set[Transfer] = set()
        self.cut_count = 0

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, manifest: str, peer: PeerId, transport: asyncio.Transport) -> Iterator[Transfer]:
        """Account for one transfer while it lasts.

        Raises:
            Unavailable: all places, or all of this peer, are taken.
        """
        mine = sum(one.peer == peer for one in self._open)
        if len(self._open) >= TRANSFERS_MAX or mine >= TRANSFERS_PER_PEER_MAX:
            raise Unavailable("pieces", why="all transfer places are taken; ask again")
        bound_queue(transport)
        transfer = Transfer(manifest, peer, transport)
        self._open.add(transfer)
        watch = asyncio.get_running_loop().call_later(STALLED_S, self._look_at, transfer)
        try:
            yield transfer
        finally:
            watch.cancel()
            self._open.discard(transfer)

    def _look_at(self, transfer: Transfer) -> None:
        if transfer not in self._open:
            return
        if not transfer.has_moved:
            transfer.reset()
            return
        transfer.has_moved = False
        asyncio.get_running_loop().call_later(STALLED_S, self._look_at, transfer)

    def cut(self, is_denied: Callable[[str], bool]) -> int:
        """Reset every transfer of a denied release, now. Returns how many."""
        denied = [transfer for transfer in self._open if is_denied(transfer.manifest)]
        for transfer in denied:
            self._open.discard(transfer)
            transfer.reset()
        self.cut_count += len(denied)
        return len(denied)


def bound_queue(transport: asyncio.Transport) -> None:
    """Keep little in the kernel's send queue, where no gate reaches it."""
    held = transport.get_extra_info("socket")
    if held is None:
        return
    held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Not on Windows.
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT_BYTES)
    transport.set_write_buffer_limits(high=_NOT_SENT_BYTES * 2)

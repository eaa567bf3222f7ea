"""A WebSocket of either direction: frames out through a bounded outbox in two lanes, frames in.

* What is urgent (orders, leases, all but the following) leaves before what is bulk (reports and
  receipts), whatever came first.
* A bulk frame is handed to the kernel only while little waits there: the line of a branch may take
  seconds for what the kernel already holds, and no order can overtake that.
* An urgent lane that is full ends the conversation, for its peer takes nothing; a bulk lane that is
  full takes no more, and whoever fills it says the newest again later.
"""

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import WSMsgType, web
from aiohttp.client_ws import ClientWebSocketResponse

from firedoor.limits import (
    BULK_AHEAD_BYTES,
    BULK_BYTES_MAX,
    FRAME_BYTES_MAX,
    OUTBOX_BYTES_MAX,
    OUTBOX_FRAMES_MAX,
)
from firedoor.runtime.logs import log
from firedoor.wire.messages import encode_message
from firedoor.wire.versions import SPOKEN

# How long a closing handshake may take before the connection is dropped without one.
CLOSE_S = 1.0

# How soon the kernel's queue is looked at again while bulk waits for it.
_LOOK_S = 0.05


class Conversation:
    """One standing connection. `speaks`: what the other side said (wire/versions.py)."""

    def __init__(
        self, socket: web.WebSocketResponse | ClientWebSocketResponse, speaks: int = SPOKEN
    ) -> None:
        self._socket = socket
        self.speaks = speaks
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._urgent_bytes = self._bulk_bytes = 0
        self._notified = asyncio.Event()
        self._is_closing = False
        self._is_ending = False
        # From the start, so that a conversation to which nobody listens can be closed as well.
        self._writer = asyncio.ensure_future(self._write())

    def socket_below(self) -> socket.socket | None:
        """The system's socket under this conversation; None once it is gone."""
        held: socket.socket | None = self._socket.get_extra_info("socket")
        return held

    @property
    def is_closing(self) -> bool:
        """Whether it takes no more frames."""
        return self._is_closing

    @property
    def is_idle(self) -> bool:
        """Whether no bulk waits, so that the newest of it may be queued."""
        return not self._bulk

    def say(self, message: object) -> bool:
        """Queue one message, as the other side knows it; as `send`."""
        return self.send(encode_message(message, self.speaks))

    def send(self, frame: bytes, *, is_bulk: bool = False) -> bool:
        """Queue one frame. False: it was not; an urgent lane that is full ends the conversation."""
        if self._is_closing:
            return False
        if len(frame) > FRAME_BYTES_MAX:
            # The peer would end the conversation over it, and over the same frame the next one.
            log("frame-too-large", level="error", size=len(frame), do="report this as a defect")
            return False
        if is_bulk:
            return self._queue_bulk(frame)
        is_full = self._urgent_bytes + len(frame) > OUTBOX_BYTES_MAX
        if is_full or len(self._urgent) >= OUTBOX_FRAMES_MAX:
            self._abandon()
            return False
        self._urgent_bytes += len(frame)
        self._urgent.append(frame)
        self._notified.set()
        return True

    def close(self) -> None:
        """End the conversation; what is urgent leaves first, and `frames` yields no more."""
        if self._is_closing:
            return
        self._is_closing = True
        self._notified.set()
        # A peer that takes nothing would keep the queue for ever.
        asyncio.get_running_loop().call_later(CLOSE_S, self._stop)

    async def closed(self) -> None:
        """Close, and wait until that is done."""
        self.close()
        await asyncio.wait({self._writer})

    async def frames(self) -> AsyncIterator[bytes]:
        """Every binary frame until either side ends; anything else ends it."""
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    return
                if not self._is_closing:
                    yield message.data
        finally:
            self._abandon()
            await asyncio.wait({self._writer})

    def _queue_bulk(self, frame: bytes) -> bool:
        if self._bulk_bytes + len(frame) > BULK_BYTES_MAX:
            return False
        self._bulk_bytes += len(frame)
        self._bulk.append(frame)
        self._notified.set()
        return True

    def _abandon(self) -> None:
        if not self._is_closing:
            self._urgent.clear()
        self.close()

    def _stop(self) -> None:
        if not self._is_ending:
            self._writer.cancel()

    async def _write(self) -> None:
        try:
            while (frame := await self._next()) is not None:
                await self._socket.send_bytes(frame)
        except (ConnectionError, RuntimeError):
            self._is_closing = True
        finally:
            self._is_closing = self._is_ending = True
            with suppress(TimeoutError, ConnectionError, RuntimeError):
                async with asyncio.timeout(CLOSE_S):
                    await self._socket.close()

    async def _next(self) -> bytes | None:
        """The next frame to leave; None: it is closing, and what was urgent has left."""
        while True:
            if self._urgent:
                frame = self._urgent.popleft()
                self._urgent_bytes -= len(frame)
                return frame
            if self._is_closing:
                return None
            if self._bulk and waiting_bytes(self.socket_below()) <= BULK_AHEAD_BYTES:
                frame = self._bulk.popleft()
                self._bulk_bytes -= len(frame)
                return frame
            self._notified.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if self._bulk else None):
                    await self._notified.wait()


def waiting_bytes(held: socket.socket | None) -> int:
    """How much the kernel holds for the peer of a connection; 0 where it does not tell.

    Linux tells. Elsewhere bulk is bounded by the outbox alone (untested there).
    """
    if held is None or not sys.platform.startswith("linux"):
        return 0
    import fcntl  # noqa: PLC0415  # POSIX only
    import termios  # noqa: PLC0415  # POSIX only

    try:
        return int(struct.unpack("i", fcntl.ioctl(held.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    # A socket that was closed just now has no number.
    except (OSError, ValueError):
        return 0

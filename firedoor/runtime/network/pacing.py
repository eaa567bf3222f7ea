"""A byte budget: at most so many bytes a second, in small even portions."""

import asyncio

from firedoor.limits import GATE_BYTES
from firedoor.runtime.clocks import Clock
from firedoor.units import Instant, Span

# What may leave at once after a pause: a quarter of a second's worth keeps 1 s averages true.
_BURST_S = 0.25


# Turns without a look at what others wait for.
_IN_A_ROW = 16

# What is read of a message in the time that a short one takes, near enough.
TURN_BYTES = 256


class Budget:
    """A token bucket; 0 bytes a second means no limit."""

    def __init__(self, bytes_per_s: int, clock: Clock | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock or Clock()
        self._burst = max(GATE_BYTES, bytes_per_s * _BURST_S)
        self._tokens = 0.0
        self._at = self._clock.now()

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may move."""
        if not self.bytes_per_s:
            return
        now = self._clock.now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.bytes_per_s)
        self._at = now
        # Debt is taken before the wait, so that those who wait together are served in turn.
        self._tokens -= count
        if self._tokens < 0:
            try:
                await asyncio.sleep(-self._tokens / self.bytes_per_s)
            except asyncio.CancelledError:
                # What will not move is owed by nobody.
                self._tokens += count
                raise


class Turns:
    """So many turns a second and at once; whoever has had its share waits, and others come between.

    Without this all messages of one peer that have come are read in one turn of the event loop,
    while the others wait. A long message takes as many turns as it has TURN_BYTES.
    """

    def __init__(self, per_s: int, at_once: int, clock: Clock) -> None:
        self._per_s = per_s
        self._at_once = float(at_once)
        self._left = float(at_once)
        self._clock = clock
        self._at = clock.now()
        self._since = 0

    async def take(self, size: int) -> None:
        """Wait until a message of `size` bytes has its turn."""
        count = 1 + size // TURN_BYTES
        self._since += count
        if self._since >= _IN_A_ROW:
            self._since = 0
            await asyncio.sleep(0)
        self._left -= count
        if self._left < 0:
            now = self._clock.now()
            self._left = min(self._at_once, self._left + (now - self._at) * self._per_s)
            self._at = now
        if self._left < 0:
            await asyncio.sleep(-self._left / self._per_s)


class Rate:
    """So many of something in each span; whoever asks for more is told no, not to wait."""

    def __init__(self, count: int, span: Span, now: Instant) -> None:
        self._count = count
        self._span = span
        self._left = float(count)
        self._at = now

    def take(self, now: Instant) -> bool:
        """Whether one more is within the rate; it is then taken."""
        gained = max(0.0, now - self._at) * self._count / self._span
        self._left = min(float(self._count), self._left + gained)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

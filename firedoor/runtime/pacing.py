"""A byte budget: at most so many bytes a second, in small even portions."""

import asyncio

from firedoor.limits import GATE_BYTES
from firedoor.runtime.clocks import Clock
from firedoor.units import Instant, Span

# What may leave at once after a pause: a quarter of a second's worth keeps 1 s averages true.
_BURST_S = 0.25


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

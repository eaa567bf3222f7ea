"""The only place that reads a clock or the system's dice."""

import os
import time

from firedoor.units import Instant, Span, UnixTime


class Clock:
    """The real clocks. Tests inject a fake with the same three methods."""

    def now(self) -> Instant:
        """The suspend-aware clock; it goes on while the machine sleeps, where there is one."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))
        return Instant(time.monotonic())

    def unix(self) -> UnixTime:
        """The wall clock; it may be wrong."""
        return UnixTime(int(time.time()))

    def unix_ms(self) -> int:
        """The wall clock in milliseconds, for what is only shown."""
        return int(time.time() * 1000)

    def divergence(self) -> Span:
        """How far the wall clock is ahead of the suspend-aware one; a jump of it voids leases."""
        return Span(time.time() - self.now())

    def nonce(self) -> bytes:
        """32 bytes that nobody can foresee, from the operating system; never from dice."""
        return os.urandom(32)

    def seed(self) -> int:
        """A seed for dice, from the operating system."""
        return int.from_bytes(os.urandom(8), "big")

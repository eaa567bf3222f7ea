"""What one peer has shown itself to be worth as a source.

* Its rate is measured, never believed: bytes of verified pieces over the time they took.
* A peer that fails is left alone for a while, longer each time; one piece that arrives clears it.

It does not know what the peer holds (demand.py) nor which peer is asked (scheduler.py).
"""

from dataclasses import dataclass

from firedoor.identity import PeerId
from firedoor.limits import REQUEST_SPAN_MAX, REQUEST_SPAN_MIN
from firedoor.units import KIB, Instant, Span, after

# Bytes per second of a peer that has sent nothing yet. Sixty-four endpoints that ask one mirror on
# a 100 Mbit/s port at once get 190 KiB/s each; a guess above that would give them all up.
FIRST_RATE = 128.0 * KIB

# The weight of the newest measurement: three of them outweigh all that was before.
NEWEST_WEIGHT = 0.3

# Before anything that happens.
NEVER = Instant(0.0)

# How many times longer than its rate promises a request may take: four halvings of TCP's window.
SLACK = 4

# A peer that fails without an end is asked about every three seconds: 2**5 times RETRY_SPAN.
DOUBLINGS_MAX = 5


@dataclass(slots=True)
class Standing:
    """One peer that may be asked. `in_flight`: its requests; `failures`: since its last piece."""

    peer: PeerId
    is_mirror: bool
    rate: float = FIRST_RATE
    in_flight: int = 0
    not_before: Instant = NEVER
    failures: int = 0
    measured_at: Instant = NEVER

    def is_ready(self, now: Instant) -> bool:
        """Whether it is not left alone at the moment."""
        return now >= self.not_before

    @property
    def worth(self) -> tuple[int, float]:
        """Sorts the best source first."""
        return self.failures, -self.rate

    def patience(self, size: int) -> Span:
        """How long a request of `size` bytes may go without progress."""
        span = SLACK * size / self.rate
        return Span(min(max(span, REQUEST_SPAN_MIN), REQUEST_SPAN_MAX))

    def delivered(self, size: int, started: Instant, now: Instant) -> None:
        """A request that began at `started` ended well after `size` bytes."""
        # Two requests share one line: the second's time counts from the end of the first.
        elapsed = now - max(started, self.measured_at)
        if elapsed > 0 and size > 0:
            self.rate += NEWEST_WEIGHT * (size / elapsed - self.rate)
            self.measured_at = now

    def failed(self, retry_after: Span, now: Instant) -> None:
        """Leave it alone for `retry_after`, doubled for each failure since its last piece."""
        pause = Span(retry_after * 2 ** min(self.failures, DOUBLINGS_MAX))
        self.not_before = max(self.not_before, after(now, pause))
        self.failures += 1

    def missed(self, pause: Span, now: Instant) -> None:
        """It let a deadline pass: a failure, and a reason to be more patient afterwards."""
        # Without the halving a link slower than the first guess would never finish one request.
        self.rate = max(self.rate / 2, 1.0)
        self.failed(pause, now)

"""Virtual time: what is to happen, in order of its instant and then of its being asked for."""

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import ParamSpec

from firedoor.units import Instant, Span, after

P = ParamSpec("P")


class Clockwork:
    """One queue of events. `now` moves only from one event to the next."""

    __slots__ = ("_count", "_events", "now")

    def __init__(self) -> None:
        self.now = Instant(0.0)
        self._count = 0
        self._events: list[tuple[Instant, int, Callable[[], None]]] = []

    def later(self, span: Span, act: Callable[P, None], *args: P.args, **named: P.kwargs) -> None:
        """Call `act` after `span`; a negative span counts as none."""
        self._count += 1
        due = after(self.now, Span(max(span, 0.0)))
        event: Callable[[], None] = partial(act, *args, **named)
        heappush(self._events, (due, self._count, event))

    def run(self, is_over: Callable[[], bool], end: Instant) -> None:
        """Go on until it is over, nothing is left to happen, or `end` has come."""
        while self._events and self._events[0][0] < end and not is_over():
            self.now, _, act = heappop(self._events)
            act()

"""When an installation that has failed is tried again.

The pause doubles, up to five minutes, after what only a person can end: no room, or too large.
Orders are obeyed all the while; only a new attempt waits.
"""

from firedoor.errors import NoRoom, TooLarge
from firedoor.units import Instant, Span, after, between

# After a failure: a mirror that restarts, a switch that the disk refused.
TRY_AGAIN = Span(1.0)

# What there is no room for, or what is larger than is taken here, at most this long.
REST_MAX = Span(300.0)

# A full disk is emptied by a person or a rotation of logs, not within a second.
NO_ROOM_SPAN = Span(5.0)

_DOUBLINGS_MAX = 16


class Resting:
    """The pause of one product."""

    __slots__ = ("_count", "_until")

    def __init__(self, now: Instant) -> None:
        self._until = now
        self._count = 0

    def wait(self, now: Instant) -> Span:
        """How long it still rests; 0: it does not."""
        return Span(max(0.0, between(now, self._until)))

    def on_failure(self, error: Exception, now: Instant) -> None:
        """An attempt ended so."""
        if isinstance(error, NoRoom | TooLarge):
            span = Span(min(TRY_AGAIN * 2 ** min(self._count, _DOUBLINGS_MAX), REST_MAX))
            self._count += 1
            self._until = after(now, span)

    def on_no_room(self, now: Instant) -> None:
        """Its pieces found no room."""
        self._until = after(now, NO_ROOM_SPAN)

    def on_success(self) -> None:
        """An attempt got through."""
        self._count = 0

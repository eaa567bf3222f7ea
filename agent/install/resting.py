"""When an installation that has failed is tried again.

The pause doubles, up to five minutes, after what only a person can end: no room, or too large.
Orders are obeyed all the while; only a new attempt waits.
"""

from collections.abc import Callable

from firedoor.errors import NoRoom, TooLarge
from firedoor.units import Instant, Span, after, between

# After a failure: a mirror that restarts, a switch that the disk refused.
TRY_AGAIN_S = 1.0

# What there is no room for, or what is larger than is taken here, at most this long.
REST_MAX_S = 300.0

# A full disk is emptied by a person or a rotation of logs, not within a second.
NO_ROOM_SPAN = Span(5.0)

_DOUBLINGS_MAX = 16


class Resting:
    """The pause of one product."""

    def __init__(self, now: Callable[[], Instant]) -> None:
        self._now = now
        self._until = now()
        self._count = 0

    def wait_s(self) -> float:
        """How long it still rests; 0: it does not."""
        return max(0.0, between(self._now(), self._until))

    def on_failure(self, error: Exception) -> None:
        """An attempt ended so."""
        if isinstance(error, NoRoom | TooLarge):
            span = min(TRY_AGAIN_S * 2 ** min(self._count, _DOUBLINGS_MAX), REST_MAX_S)
            self._count += 1
            self._until = after(self._now(), Span(span))

    def on_no_room(self) -> None:
        """Its pieces found no room."""
        self._until = after(self._now(), NO_ROOM_SPAN)

    def on_success(self) -> None:
        """An attempt got through."""
        self._count = 0

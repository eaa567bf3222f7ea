"""Units of time and size, so that two numbers with different meanings cannot be swapped unseen."""

from typing import NewType

Instant = NewType("Instant", float)
"""Seconds on the suspend-aware monotonic clock of one machine. For all that waits."""

Span = NewType("Span", float)
"""Seconds between two instants."""

UnixTime = NewType("UnixTime", int)
"""Seconds since 1970 UTC. For what is signed or shown; never for what waits."""

KIB = 1024
MIB = 1024 * KIB


def after(now: Instant, span: Span) -> Instant:
    """The instant that lies `span` after `now`."""
    return Instant(now + span)


def between(earlier: Instant, later: Instant) -> Span:
    """The span from `earlier` to `later`; negative if they are the other way round."""
    return Span(later - earlier)

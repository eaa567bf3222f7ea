"""How fast the origin logs new orders of one key: a burst that no operator types, then slowly.

* What it does not log is obeyed by whoever holds it, so a limit here stops no halt; but each other
  peer holds only so many orders that are not logged. So a thief of a halt key, who cannot fill a
  fleet's order set in seconds, leaves its people hours to revoke the key.
* What a beacon has named before is not new: an origin that was set back takes all of it at once.

Only the origin has such a limit: in the nodes it would keep them from converging.
Source: halt.md, Paths (bounds) and Authority.
"""

from collections.abc import Iterable

from firedoor.errors import TooLarge
from firedoor.limits import LOGGED_AT_ONCE_MAX
from firedoor.units import Instant, Span, between

# With a burst of 64 it takes a thief nearly three hours to fill the share of a key.
LOGGED_EACH_SPAN = Span(10.0)


class Quota:
    """What the origin has logged of each key lately."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        # By key id: how much of the burst was used, and when.
        self._used: dict[str, tuple[float, Instant]] = {}

    def take(self, keyids: Iterable[str], now: Instant) -> None:
        """One more order by these keys.

        Raises:
            TooLarge: one of them has signed too many in too short a time.
        """
        used = {keyid: self._used_by(keyid, now) + 1 for keyid in keyids}
        if max(used.values(), default=0) > LOGGED_AT_ONCE_MAX:
            what = f"new orders of one key at once, later one in {LOGGED_EACH_SPAN:.0f} s"
            raise TooLarge(what, limit=LOGGED_AT_ONCE_MAX, size=LOGGED_AT_ONCE_MAX + 1)
        self._used |= {keyid: (count, now) for keyid, count in used.items()}

    def _used_by(self, keyid: str, now: Instant) -> float:
        count, since = self._used.get(keyid, (0.0, now))
        return max(0.0, count - between(since, now) / LOGGED_EACH_SPAN)

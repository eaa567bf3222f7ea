"""When a mirror tells its endpoints of one another, and what it says."""

from collections.abc import Collection, Iterable

from firedoor.dice import Dice
from firedoor.effects import Effect, Send
from firedoor.identity import Role
from firedoor.limits import ROSTER_MAX
from firedoor.session import Session
from firedoor.units import Instant, Span, after
from firedoor.wire.messages import Roster, RosterEntry

# A roster that changes many times while a site boots is sent once per this span.
ROSTER_SPAN = Span(0.2)

# And less often the larger it is: n endpoints cost n times n entries.
ROSTER_SPAN_EACH = Span(0.01)

# So long takes a site's mirror, on a busy machine, to bring an order to each endpoint of it.
RECORDING_SPAN_EACH = Span(0.002)
RECORDING_SPAN_MAX = Span(1.0)


class Rosters:
    """The roster of one mirror. `due`: when it is sent next; None: nobody came or went."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due: Instant | None = None

    def stir(self, sessions: Collection[Session], now: Instant) -> None:
        """An endpoint has come or gone."""
        span = Span(max(ROSTER_SPAN, ROSTER_SPAN_EACH * len(sessions)))
        self.due = self.due or after(now, span)

    def wake(self, sessions: Collection[Session], now: Instant) -> list[Effect]:
        """Tell every endpoint of all of them, if it is due."""
        if self.due is None or now < self.due:
            return []
        self.due = None
        known = [one for one in sessions if one.sync.is_open and one.port]
        agents = [one for one in known if one.peer.role is Role.AGENT]
        entries = [RosterEntry(one.peer.id, one.host, one.port) for one in agents[:ROSTER_MAX]]
        roster = Roster(tuple(entries))
        return [Send(one.peer.id, roster) for one in agents]


def span_of_recording(sessions: Iterable[Session], dice: Dice) -> Span:
    """A wait in which the endpoints of a site record an order; what is less urgent comes after.

    Up to twice as long, by chance, so that all that comes after is spread as well.
    """
    span = min(RECORDING_SPAN_MAX, RECORDING_SPAN_EACH * neighbourhood(sessions))
    return Span(span * (1 + dice.fraction()))


def neighbourhood(sessions: Iterable[Session]) -> int:
    """How many endpoints a site has, as its mirrors say; 1 where none says it."""
    return max((len(one.roster) for one in sessions), default=0) or 1

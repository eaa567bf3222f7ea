"""When a mirror tells its endpoints of one another, and what it says.

Each hears the whole roster once, and then who has come and gone: a site of a thousand would else
send a thousand entries to a thousand endpoints whenever a laptop is closed.
"""

from collections.abc import Collection, Iterable

from firedoor.dice import Dice
from firedoor.effects import Effect, Send
from firedoor.errors import TooLarge
from firedoor.identity import PeerId, Role
from firedoor.limits import ROSTER_MAX
from firedoor.node.session import Session
from firedoor.units import Instant, Span, after
from firedoor.wire.messages import Roster, RosterChange, RosterEntry

# A roster that changes many times while a site boots is sent once per this span.
ROSTER_SPAN = Span(0.2)

# And less often the larger it is: each change costs a message for each endpoint.
ROSTER_SPAN_EACH = Span(0.002)

# So long takes a site's mirror, on a busy machine, to bring an order to each endpoint of it.
RECORDING_SPAN_EACH = Span(0.002)
RECORDING_SPAN_MAX = Span(1.0)


class Rosters:
    """The roster of one mirror. `due`: when it is sent next; None: nobody came or went."""

    __slots__ = ("_said", "due")

    def __init__(self) -> None:
        self.due: Instant | None = None
        self._said: dict[str, RosterEntry] = {}

    def schedule(self, sessions: Collection[Session], now: Instant) -> None:
        """An endpoint has come or gone."""
        span = Span(max(ROSTER_SPAN, ROSTER_SPAN_EACH * len(sessions)))
        self.due = self.due or after(now, span)

    def wake(self, sessions: Collection[Session], now: Instant) -> list[Effect]:
        """Tell every endpoint who is there, or who has come and gone, if it is due."""
        if self.due is None or now < self.due:
            return []
        self.due = None
        known = [one for one in sessions if one.sync.is_open and one.port]
        agents = [one for one in known if one.peer.role is Role.AGENT]
        entries = [RosterEntry(one.peer.id, one.host, one.port) for one in agents[:ROSTER_MAX]]
        now_there = {entry.id: entry for entry in entries}
        come = tuple(entry for entry in entries if self._said.get(entry.id) != entry)
        gone = tuple(one for one in self._said if one not in now_there)
        self._said = now_there
        whole, change = Roster(tuple(entries)), RosterChange(come, gone)
        effects: list[Effect] = []
        for one in agents:
            if not one.has_roster:
                effects.append(Send(one.peer.id, whole))
                one.has_roster = True
            elif come or gone:
                effects.append(Send(one.peer.id, change))
        return effects


def roster_after(before: frozenset[PeerId], message: Roster | RosterChange) -> frozenset[PeerId]:
    """Who is there by a mirror's word, after it has said this.

    Raises:
        TooLarge: more than a site has; each of them is a name to be dialled.
    """
    match message:
        case Roster(entries):
            roster = frozenset(PeerId(entry.id) for entry in entries)
        case RosterChange(come, gone):
            roster = (before - frozenset(map(PeerId, gone))) | {PeerId(each.id) for each in come}
    if len(roster) > ROSTER_MAX:
        raise TooLarge("roster", limit=ROSTER_MAX, size=len(roster))
    return roster


def span_of_recording(sessions: Iterable[Session], dice: Dice) -> Span:
    """A wait in which the endpoints of a site record an order; what is less urgent comes after.

    Up to twice as long, by chance, so that all that comes after is spread as well.
    """
    span = min(RECORDING_SPAN_MAX, RECORDING_SPAN_EACH * neighbourhood(sessions))
    return Span(span * (1 + dice.fraction()))


def neighbourhood(sessions: Iterable[Session]) -> int:
    """How many endpoints a site has, as its mirrors say; 1 where none says it."""
    return max((len(one.roster) for one in sessions), default=0) or 1

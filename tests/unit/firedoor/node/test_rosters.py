"""What a mirror tells its endpoints of one another: all of it once, and then what changes."""

import pytest

from firedoor.dice import Dice
from firedoor.effects import Effect, Send
from firedoor.errors import TooLarge
from firedoor.halt.sync import OrderSync
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import ROSTER_MAX
from firedoor.node.rosters import Rosters, roster_after, span_of_recording
from firedoor.node.session import Session
from firedoor.units import Instant
from firedoor.wire.messages import Roster, RosterChange, RosterEntry

LATER = Instant(1000.0)


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def entry(number: int, port: int = 7443) -> RosterEntry:
    return RosterEntry(peer(number), "h", port)


def endpoint(number: int, port: int = 7443) -> Session:
    who = Peer(peer(number), Role.AGENT, "branch")
    sync = OrderSync(who, bytes(32), has_delivered=True, has_received=True)
    return Session(who, "h", is_upstream=False, sync=sync, port=port)


class Site:
    """A mirror and whoever is connected to it."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = list(sessions)
        self.rosters = Rosters()

    def told(self) -> list[Effect]:
        """What is said once somebody has come or gone."""
        self.rosters.schedule(self.sessions, Instant(0.0))
        return self.rosters.wake(self.sessions, LATER)


def test_each_endpoint_hears_the_whole_roster_once_and_then_who_has_come() -> None:
    site = Site(endpoint(1), endpoint(2))
    assert site.told() == [Send(peer(number), Roster((entry(1), entry(2)))) for number in (1, 2)]
    site.sessions.append(endpoint(3))
    change = RosterChange((entry(3),), ())
    whole = Roster((entry(1), entry(2), entry(3)))
    assert site.told() == [Send(peer(1), change), Send(peer(2), change), Send(peer(3), whole)]


def test_who_has_gone_or_moved_is_told_and_nothing_else() -> None:
    site = Site(endpoint(1), endpoint(2), endpoint(3))
    site.told()
    site.sessions = [site.sessions[0], endpoint(2, 8443)]
    change = RosterChange((entry(2, 8443),), (peer(3),))
    assert site.told()[0] == Send(peer(1), change)
    assert site.told() == []


def test_who_comes_back_in_time_is_no_news_to_the_others() -> None:
    site = Site(endpoint(1), endpoint(2))
    site.told()
    site.sessions[1] = endpoint(2)
    assert site.told() == [Send(peer(2), Roster((entry(1), entry(2))))]


def test_changes_lead_to_the_same_roster_as_the_whole_one() -> None:
    roster = roster_after(frozenset(), Roster((entry(1), entry(2))))
    roster = roster_after(roster, RosterChange((entry(3), entry(1, 8443)), (peer(2), peer(9))))
    assert roster == {peer(1), peer(3)}


def test_a_roster_that_grows_for_ever_is_refused() -> None:
    full = frozenset(peer(number) for number in range(ROSTER_MAX))
    assert roster_after(full, RosterChange((entry(5),), ())) == full
    with pytest.raises(TooLarge):
        roster_after(full, RosterChange((entry(ROSTER_MAX),), ()))


@pytest.mark.parametrize(("count", "least", "most"), [(1, 0.002, 0.004), (10_000, 1.0, 2.0)])
def test_what_is_less_urgent_waits_until_a_site_has_recorded(
    count: int, least: float, most: float
) -> None:
    mirror = endpoint(1)
    mirror.roster = frozenset(peer(number) for number in range(count))
    spans = [span_of_recording([mirror], Dice(seed)) for seed in range(50)]
    assert least <= min(spans) < (least + most) / 2 < max(spans) <= most

"""The requests in flight: what was asked of whom, since when, and whether there is room for more.

* At most REQUESTS_PER_PEER_MAX to one peer and REQUESTS_MAX in all.
* A few of all places are kept for mirrors: what this endpoint owns, all others wait for.
* A cancelled request may still report pieces for a while: they were verified, so they count.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from firedoor.effects import Cancel, Effect, Fetch
from firedoor.limits import REQUESTS_MAX, REQUESTS_PER_PEER_MAX
from firedoor.swarm.demand import Demand
from firedoor.swarm.standing import Standing
from firedoor.units import Instant, after

# Cancelled requests that may still report pieces: those of one full round, and as many again.
LATE_MAX = 2 * REQUESTS_MAX


@dataclass(frozen=True, slots=True)
class Choice:
    """What to ask for: the pieces `first` up to but without `last` of a batch."""

    batch: int
    first: int
    last: int


@dataclass(slots=True, eq=False)
class Request:
    """One request in flight. `size` and `received` are bytes."""

    number: int
    standing: Standing
    demand: Demand
    choice: Choice
    size: int
    started: Instant
    progressed: Instant
    received: int = 0

    @property
    def deadline(self) -> Instant:
        """When it is given up, unless a piece arrives before."""
        return after(self.progressed, self.standing.patience(self.size))


class Requests:
    """All requests of a swarm, in the order in which they were made."""

    __slots__ = ("_by_number", "_last_number", "_late", "_places")

    def __init__(self, places: int) -> None:
        assert REQUESTS_PER_PEER_MAX < places <= REQUESTS_MAX
        self._places = places
        self._by_number: dict[int, Request] = {}
        self._late: dict[int, Demand] = {}
        self._last_number = 0

    def __iter__(self) -> Iterator[Request]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Request | None:
        """The request with this number, if it is in flight."""
        return self._by_number.get(number)

    def late(self, number: int) -> Demand | None:
        """What a request was for that was cancelled lately."""
        return self._late.get(number)

    def has_room(self, kept: int) -> bool:
        """Whether one more may be made when `kept` places must stay free."""
        return len(self._by_number) < self._places - kept

    def lone(self, demand: Demand) -> list[Request]:
        """The requests whose batch is missing and asked of nobody else, the oldest first."""
        return [
            request
            for request in self
            if request.demand is demand
            and request.choice.batch in demand.missing
            and demand.asked[request.choice.batch] == 1
        ]

    def is_served(self, demand: Demand) -> bool:
        """Whether something is in flight to a peer that has not failed since its last piece.

        A peer that is always asked and never answers would hold off the mirror for ever.
        """
        return any(one.demand is demand and not one.standing.failures for one in self)

    def start(self, demand: Demand, standing: Standing, choice: Choice, now: Instant) -> Fetch:
        """Make one; the caller has seen to it that there is room."""
        self._last_number += 1
        number, manifest = self._last_number, demand.pieces.manifest
        size = sum(demand.pieces.sizes[choice.first : choice.last])
        self._by_number[number] = Request(number, standing, demand, choice, size, now, now)
        demand.asked[choice.batch] = demand.asked.get(choice.batch, 0) + 1
        standing.in_flight += 1
        assert standing.in_flight <= REQUESTS_PER_PEER_MAX
        assert len(self._by_number) <= self._places
        return Fetch(number, standing.peer, manifest, choice.first, choice.last)

    def end(self, request: Request) -> None:
        """It is over, well or not."""
        del self._by_number[request.number]
        request.standing.in_flight -= 1
        asked, batch = request.demand.asked, request.choice.batch
        asked[batch] -= 1
        if not asked[batch]:
            del asked[batch]

    def cancel(self, requests: Iterable[Request]) -> list[Effect]:
        """Give these up."""
        cancelled = [*requests]
        for request in cancelled:
            self.end(request)
            self._late[request.number] = request.demand
        while len(self._late) > LATE_MAX:
            del self._late[next(iter(self._late))]
        return [Cancel(request.number) for request in cancelled]

"""Who is asked for which pieces, and when a request is given up.

* Endpoints first, mirrors last; the oldest demand first (the choice itself: policy.py).
* A request without progress for its deadline is cancelled and its pieces are asked elsewhere.
* End-game: when all that is missing is in flight, an idle peer is asked for an old request's too.
* A peer that sent bytes that are not the piece is asked for nothing more as long as this swarm
  lives. Its orders are still heard: a rotten disk must not deafen a site.

It stores, verifies and permits nothing: the host verifies, node.py asks the brake.
"""

from collections.abc import Iterable
from functools import partial

from firedoor.dice import Dice
from firedoor.effects import Complete, Effect, Tell
from firedoor.identity import PeerId
from firedoor.limits import OWNER_PATIENCE, REQUESTS_MAX, REQUESTS_PER_PEER_MAX
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.swarm.demand import Demand
from firedoor.swarm.policy import begins_to_starve, choose, doubtful_at, is_owner, second_source
from firedoor.swarm.requests import Requests
from firedoor.swarm.standing import Standing
from firedoor.units import Instant, Span, after

# A peer that missed a deadline is busy or gone; a second lets others take over its pieces.
MISSED_PAUSE = Span(1.0)


class Swarm:
    """The fetching of one peer; every method returns what the host must do, in order.

    `places`: requests in flight in all; fewer where the line is capped, so that the batches which
    this peer brings for its neighbours do not queue behind all the others.
    """

    __slots__ = (
        "_banned",
        "_demands",
        "_dice",
        "_me",
        "_next",
        "_peers",
        "_requests",
        "_roster",
    )

    def __init__(self, me: PeerId, dice: Dice, places: int = REQUESTS_MAX) -> None:
        self._me = me
        self._dice = dice
        self._peers: dict[PeerId, Standing] = {}
        self._banned: dict[PeerId, None] = {}
        self._roster: tuple[PeerId, ...] = ()
        self._demands: dict[str, Demand] = {}
        self._requests = Requests(places)
        self._next: Instant | None = None

    # --- peers ---------------------------------------------------------------------------------

    def peer_joined(self, peer: PeerId, is_mirror: bool, now: Instant) -> list[Effect]:  # noqa: FBT001  # node.py calls it by position
        """`peer` may be asked from now on; orders are synced with it."""
        if peer in self._banned:
            return []
        gone = self._forget(peer)
        self._peers[peer] = Standing(peer, is_mirror)
        return self._settle(gone, now)

    def peer_left(self, peer: PeerId, now: Instant) -> list[Effect]:
        """`peer` is gone; its requests are cancelled and asked elsewhere."""
        return self._settle(self._forget(peer), now)

    def roster(self, ids: tuple[PeerId, ...], now: Instant) -> list[Effect]:
        """The endpoints of this site, among whom batches are shared out; `me` need not be in."""
        self._share_out(ids)
        return self._settle([], now)

    def bitfield(self, peer: PeerId, manifest: str, bits: bytes, now: Instant) -> list[Effect]:
        """`peer` holds these pieces of a release, and no others.

        Raises:
            Malformed: it is not of the release's size. A release that is not wanted is ignored.
        """
        demand, standing = self._demands.get(manifest), self._peers.get(peer)
        if demand is None or standing is None:
            return []
        if demand.announce_all(peer, bits, is_mirror=standing.is_mirror):
            demand.hear(now)
        return self._settle([], now, [standing])

    def have(
        self, peer: PeerId, manifest: str, pieces: tuple[int, ...], now: Instant
    ) -> list[Effect]:
        """`peer` holds these pieces of a release too.

        Raises:
            Malformed: there is no such piece. A release that is not wanted is ignored.
        """
        demand, standing = self._demands.get(manifest), self._peers.get(peer)
        if demand is None or standing is None:
            return []
        if demand.announce(peer, pieces, is_mirror=standing.is_mirror):
            demand.hear(now)
        return self._settle([], now, [standing])

    # --- demands -------------------------------------------------------------------------------

    def want(self, pieces: PieceMap, have: Bits, now: Instant) -> list[Effect]:
        """Fetch what `have` lacks of a release. `have` is shared with the host from here on."""
        manifest = pieces.manifest
        demand = self._demands.get(manifest)
        if demand is None:
            self._demands[manifest] = Demand(pieces, have, now)
        else:
            demand.restart(have)
        return self._settle([], now)

    def drop(self, manifest: str, now: Instant) -> list[Effect]:
        """Give a release up at once: it is halted."""
        demand = self._demands.pop(manifest, None)
        gone = [one for one in self._requests if one.demand is demand]
        return self._settle(self._requests.cancel(gone), now)

    # --- requests ------------------------------------------------------------------------------

    def fetched(self, number: int, pieces: tuple[int, ...], now: Instant) -> list[Effect]:
        """Verified pieces of a request are stored; a request cancelled lately may report too."""
        request = self._requests.get(number)
        demand = request.demand if request else self._requests.late(number)
        if demand is None:
            return []
        ended = demand.take(pieces)
        demand.heard_at = now
        if request is not None:
            request.progressed = now
            request.received += sum(demand.pieces.sizes[piece] for piece in pieces)
            request.standing.failures = 0
        rivals = [
            rival
            for rival in self._requests
            if rival.demand is demand and rival is not request and rival.choice.batch in ended
        ]
        # Only a cancelled rival frees a place; without one there is nobody new to ask.
        return self._settle(self._requests.cancel(rivals), now, None if rivals else [])

    def finished(self, number: int, now: Instant) -> list[Effect]:
        """A request has ended well."""
        request = self._requests.get(number)
        if request is None:
            return []
        request.standing.delivered(request.received, request.started, now)
        self._requests.end(request)
        return self._settle([], now)

    def failed(self, number: int, now: Instant, *, is_lie: bool, retry_after: Span) -> list[Effect]:
        """A request has ended early. `is_lie`: the peer sent bytes that are not the piece."""
        request = self._requests.get(number)
        if request is None:
            return []
        self._requests.end(request)
        if not is_lie:
            request.standing.failed(retry_after, now)
            return self._settle([], now)
        peer, manifest = request.standing.peer, request.demand.pieces.manifest
        self._banned[peer] = None
        self._share_out(self._roster)
        tell = Tell("peer-banned", (("peer", peer), ("manifest", manifest)))
        return self._settle([*self._forget(peer), tell], now)

    # --- time and questions --------------------------------------------------------------------

    def wake(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        overdue = [request for request in self._requests if now >= request.deadline]
        for request in overdue:
            request.standing.missed(MISSED_PAUSE, now)
        return self._settle(self._requests.cancel(overdue), now)

    def next_wakeup(self) -> Instant | None:
        """When `wake` is due next."""
        return self._next

    def wanted(self) -> tuple[str, ...]:
        """The releases being fetched, the oldest demand first."""
        return tuple(self._demands)

    def holders(self, manifest: str) -> tuple[int, ...]:
        """For each batch of a wanted release, how many endpoints hold it whole."""
        demand = self._demands.get(manifest)
        return tuple(demand.holders) if demand else ()

    # --- inside --------------------------------------------------------------------------------

    def _settle(
        self, effects: list[Effect], now: Instant, only: list[Standing] | None = None
    ) -> list[Effect]:
        # What follows from any change. `only`: the peers that it may have given something to ask.
        for manifest, demand in [*self._demands.items()]:
            if not demand.missing and not demand.asked:
                del self._demands[manifest]
                effects.append(Complete(manifest))
        effects += self._ask_all([*self._peers.values()] if only is None else only, now)
        unserved = [one for one in self._demands.values() if not self._requests.is_served(one)]
        starving = [demand for demand in unserved if begins_to_starve(demand, now)]
        for demand in starving:
            demand.is_starving = True
            effects.append(Tell("demand-starving", (("manifest", demand.pieces.manifest),)))
        if starving:
            effects += self._ask_all([*self._peers.values()], now)
        due = self._next_due(now)
        if only is not None and self._next is not None:
            # Not all has been looked at, so what was due before still is.
            due = self._next if due is None else min(due, self._next)
        self._next = due if self._demands else None
        return effects

    def _ask_all(self, peers: list[Standing], now: Instant) -> list[Effect]:
        ready = sorted((one for one in peers if one.is_ready(now)), key=lambda one: one.worth)
        effects: list[Effect] = []
        for is_mirror in (False, True):
            group = [one for one in ready if one.is_mirror is is_mirror]
            for level in range(REQUESTS_PER_PEER_MAX):
                for standing in group:
                    if standing.in_flight == level and self._has_room(is_mirror=is_mirror):
                        effects += self._ask(standing, now)
        for demand in self._demands.values():
            if demand.is_all_asked:
                effects += self._ask_twice(demand, ready, now)
        return effects

    def _has_room(self, *, is_mirror: bool) -> bool:
        is_kept = not is_mirror and any(one.is_mirror for one in self._peers.values())
        return self._requests.has_room(REQUESTS_PER_PEER_MAX if is_kept else 0)

    def _ask(self, standing: Standing, now: Instant) -> list[Effect]:
        for demand in self._demands.values():
            choice = choose(demand, standing, partial(self._is_mine, demand), self._dice)
            if choice is not None:
                return [self._requests.start(demand, standing, choice, now)]
        return []

    def _ask_twice(self, demand: Demand, ready: Iterable[Standing], now: Instant) -> list[Effect]:
        effects: list[Effect] = []
        for standing in ready:
            if not standing.in_flight and self._has_room(is_mirror=standing.is_mirror):
                choice = second_source(demand, standing, self._requests.lone(demand), now)
                if choice is not None:
                    effects.append(self._requests.start(demand, standing, choice, now))
        return effects

    def _share_out(self, ids: tuple[PeerId, ...]) -> None:
        self._roster = tuple(one for one in ids if one != self._me and one not in self._banned)
        for demand in self._demands.values():
            demand.mine.clear()

    def _is_mine(self, demand: Demand, at: int) -> bool:
        mine = demand.mine.get(at)
        if mine is None:
            digest = demand.pieces.digests[demand.batches[at].first]
            mine = demand.mine[at] = is_owner(digest, self._me, self._roster)
        return mine

    def _forget(self, peer: PeerId) -> list[Effect]:
        self._peers.pop(peer, None)
        for demand in self._demands.values():
            demand.forget(peer)
        return self._requests.cancel([one for one in self._requests if one.standing.peer == peer])

    def _next_due(self, now: Instant) -> Instant | None:
        # Of what lies at or before `now` only a deadline is left for `wake`; the rest has just been
        # looked at and would spin the host.
        times = [standing.not_before for standing in self._peers.values()]
        for demand in self._demands.values():
            if not demand.is_starving and not self._requests.is_served(demand):
                times.append(after(demand.heard_at, OWNER_PATIENCE))
            if demand.is_all_asked:
                for request in self._requests.lone(demand):
                    times.append(doubtful_at(request, is_mirror=False))
                    times.append(doubtful_at(request, is_mirror=True))
        times = [time for time in times if time > now]
        return min([*times, *(request.deadline for request in self._requests)], default=None)

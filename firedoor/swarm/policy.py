"""Which batch a peer with a free place is asked for next.

* The rarest first: the one that the fewest endpoints hold; ties by the dice.
* From a mirror only what nobody else will bring: each batch has one owner among the endpoints of a
  site, by rendezvous hash, who alone takes it from there. A starving demand takes anything.
* A part of a batch only from a peer that would stand idle otherwise.

Source: Thaler and Ravishankar: A name-based mapping scheme for rendezvous, 1996.
"""

from collections.abc import Callable, Iterable
from hashlib import blake2b

from firedoor.dice import Dice
from firedoor.identity import PeerId
from firedoor.limits import OWNER_PATIENCE
from firedoor.swarm.demand import Demand
from firedoor.swarm.requests import Choice, Request
from firedoor.swarm.standing import Standing
from firedoor.units import Instant, Span, after

# A request must be this old before the same batch is asked for elsewhere too: young ones end soon.
ENDGAME_AGE = Span(1.0)


def choose(
    demand: Demand, standing: Standing, is_mine: Callable[[int], bool], dice: Dice
) -> Choice | None:
    """What of this demand to ask this peer for; None: nothing."""
    offer = demand.offers.get(standing.peer)
    if offer is None:
        return None

    def is_free(at: int) -> bool:
        may = not standing.is_mirror or demand.is_starving or is_mine(at)
        return may and at not in demand.asked

    batches = [at for at in offer.whole if is_free(at)]
    if not batches and not standing.in_flight:
        parts = [at for at in offer.parts if is_free(at)]
        batches = [at for at in parts if demand.useful_range(at, offer.bits) is not None]
    if not batches:
        return None
    fewest = min(demand.holders[at] for at in batches)
    rarest = [at for at in batches if demand.holders[at] == fewest]
    at = rarest[0] if len(rarest) == 1 else dice.pick(rarest)
    useful = demand.useful_range(at, offer.bits)
    return None if useful is None else Choice(at, *useful)


def second_source(
    demand: Demand, standing: Standing, lone: Iterable[Request], now: Instant
) -> Choice | None:
    """What this idle peer is asked for although it is in flight elsewhere; None: nothing.

    `lone`: the requests whose batch is asked of nobody else; the first that fits is taken.
    """
    offer = demand.offers.get(standing.peer)
    if offer is None:
        return None
    for request in lone:
        is_due = now >= doubtful_at(request, is_mirror=standing.is_mirror)
        if request.standing is not standing and is_due:
            at = request.choice.batch
            useful = demand.useful_range(at, offer.bits)
            if useful is not None:
                return Choice(at, *useful)
    return None


def doubtful_at(request: Request, *, is_mirror: bool) -> Instant:
    """From when on a second peer may be asked for the same pieces.

    A mirror only once nothing arrives any more: each copy that leaves it twice is one too many.
    """
    if is_mirror:
        return after(request.progressed, OWNER_PATIENCE)
    return after(request.started, ENDGAME_AGE)


def begins_to_starve(demand: Demand, now: Instant) -> bool:
    """Whether nobody has brought anything for OWNER_PATIENCE, but a mirror could."""
    if demand.is_starving or now < after(demand.heard_at, OWNER_PATIENCE):
        return False
    mirrors = [offer for offer in demand.offers.values() if offer.is_mirror]
    return any(offer.whole or offer.parts for offer in mirrors)


def is_owner(digest: bytes, me: PeerId, others: Iterable[PeerId]) -> bool:
    """Whether `me` and none of `others` takes the batch that begins with this piece."""
    mine = (_weight(digest, me), me)
    return all((_weight(digest, other), other) <= mine for other in others)


def _weight(digest: bytes, peer: PeerId) -> bytes:
    return blake2b(digest + peer.encode(), digest_size=8).digest()

"""How an order or a beacon goes on from here: at once, or later where another tells them.

* A new record goes at once to every open conversation, ahead of pieces, but for those whom the
  mirror that brought it tells itself: its roster. To them it is repeated a moment later, for the
  one whose line to the mirror is down, and not to whom it was heard from meanwhile.
* So a site of n endpoints costs one message each, and not one for each pair of neighbours.
* A lying mirror's roster can put such a repeat off by two seconds, and never prevent it.

Source: halt/README.md, Paths (b); Trickle (RFC 6206) for falling silent once the others have it.
Measured with 200 endpoints on two cores: 4.5 times less CPU for an order, recorded p99 from 973 to
401 ms.
"""

from collections.abc import Collection
from dataclasses import dataclass

from firedoor.dice import Dice
from firedoor.effects import Effect, Send
from firedoor.identity import PeerId
from firedoor.node.session import Session
from firedoor.units import Instant, Span, after
from firedoor.wire.messages import Beacon, Orders

# A mirror needs about a millisecond and a half for each endpoint; the repeats wait for it to end.
REPEAT_SPAN = Span(0.5)
REPEAT_SPAN_EACH = Span(0.002)
REPEAT_SPAN_MAX = Span(1.0)


@dataclass(slots=True)
class Rumour:
    """What is repeated to `peers` once it is `due`."""

    message: Orders | Beacon
    due: Instant
    peers: set[PeerId]


class Spreading:
    """What one node has still to repeat, by record."""

    __slots__ = ("_dice", "_rumours")

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._rumours: dict[bytes, Rumour] = {}

    def spread(
        self,
        record: bytes,
        message: Orders | Beacon,
        told: Collection[Session],
        sender: Session | None,
        now: Instant,
    ) -> list[Effect]:
        """Send `message` on to `told`, at once or, where `sender` tells them too, later."""
        roster = sender.roster if sender is not None else frozenset[PeerId]()
        late = {one.peer.id for one in told if one.peer.id in roster}
        if late:
            longest = min(REPEAT_SPAN_MAX, REPEAT_SPAN_EACH * len(roster))
            span = max(REPEAT_SPAN, longest) * (1 + self._dice.fraction())
            self._rumours[record] = Rumour(message, after(now, Span(span)), late)
        others = [one.peer.id for one in told if one is not sender and one.peer.id not in late]
        return [Send(peer, message) for peer in others]

    def heard(self, record: bytes, sender: Session | None, now: Instant) -> None:
        """`sender` has it; if it is a mirror, it tells its own roster and nobody else."""
        rumour = self._rumours.get(record)
        if rumour is None or sender is None:
            return
        rumour.peers.discard(sender.peer.id)
        if sender.roster and not rumour.peers <= sender.roster:
            rumour.due = now

    def wake(self, connected: Collection[PeerId], now: Instant) -> list[Effect]:
        """Repeat what is due, to those who are still connected."""
        due = [record for record, each in self._rumours.items() if now >= each.due]
        rumours = [self._rumours.pop(record) for record in due]
        return [
            Send(peer, rumour.message)
            for rumour in rumours
            for peer in sorted(rumour.peers)
            if peer in connected
        ]

    def next_wakeup(self) -> Instant | None:
        """When `wake` is due."""
        return min((each.due for each in self._rumours.values()), default=None)

"""Signs of life on standing connections, and when one counts as dead.

* One way: a mirror beats each second to endpoints and to mirrors below it; of two endpoints the one
  that was dialled, each ten. In both directions a second costs 207 bytes of IP.
* A peer that should beat is dead after three beats of silence, or three times the round trip that
  its dial took. Who only listens is found dead by the kernel, which has beats to deliver.
* Time in which this program itself stood still is nobody's silence.
"""

import socket
from contextlib import suppress
from dataclasses import dataclass

from firedoor.identity import Role
from firedoor.runtime.network.conversation import Conversation
from firedoor.units import Instant, Span

# halt/README.md, Paths.
MIRROR_BEAT = Span(1.0)
NEIGHBOUR_BEAT = Span(10.0)
BEATS_MISSED = 3

# A look that comes so much late says that this program was not running.
STOOD_STILL = Span(1.0)

# Unacknowledged bytes end a connection after this; Linux alone lets one say so.
_UNACKNOWLEDGED_MS = 30_000


@dataclass(slots=True)
class Pulse:
    """Of one connection. `theirs`, `mine`: how often each side beats; None: it does not."""

    theirs: Span | None
    mine: Span | None
    round_trip: Span
    heard_at: Instant
    beaten_at: Instant

    def is_dead(self, now: Instant) -> bool:
        """Whether the peer has been silent for too long."""
        if self.theirs is None:
            return False
        return now - self.heard_at > BEATS_MISSED * max(self.theirs, self.round_trip)

    def is_due(self, now: Instant) -> bool:
        """Whether to beat now; if so, it is taken as done."""
        is_due = self.mine is not None and now - self.beaten_at >= self.mine
        if is_due:
            self.beaten_at = now
        return is_due


def pulse_of(me: Role, peer: Role, now: Instant, *, is_mine: bool, round_trip: Span) -> Pulse:
    """The pulse of a new connection. `is_mine`: this side dialled it."""
    mine = beat_of(me, peer, is_dialler=is_mine)
    theirs = beat_of(peer, me, is_dialler=not is_mine)
    return Pulse(theirs, mine, round_trip, now, now)


def beat_of(sender: Role, receiver: Role, *, is_dialler: bool) -> Span | None:
    """How often `sender` beats on a connection to `receiver`; None: it does not."""
    roles = {sender, receiver}
    if Role.OPERATOR in roles:
        return None
    if len(roles) == 1:
        # The one that was dialled; of two mirrors it is nearer to the origin.
        beat = NEIGHBOUR_BEAT if sender is Role.AGENT else MIRROR_BEAT
        return None if is_dialler else beat
    return MIRROR_BEAT if sender is Role.MIRROR else None


def bound_silence(conversation: Conversation) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing any more."""
    held = conversation.socket_below()
    if held is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)

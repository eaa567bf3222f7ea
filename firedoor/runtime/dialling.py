"""Whom to keep a standing connection with, and how to come back when it breaks.

* Static addresses are dialled for ever, with backoff and jitter.
* Neighbours (from a roster or found by mDNS) are dialled up to a number; the rest dial us.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import PeerId, Role
from firedoor.limits import HINTS_MAX, MIRRORS_DIALLED_MAX
from firedoor.runtime.host import Host
from firedoor.runtime.logs import log
from firedoor.units import Instant, Span, after

# First retry soon, for a mirror that restarts; never more than this often once it stays away.
BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 15.0

# By then the backoff is at its most; a power of many more would be no number.
_DOUBLINGS_MAX = 10

# A connection that held this long has proved the address; its next loss starts from the minimum.
PROVED_S = 5.0


# An endpoint that failed this often, for minutes, is forgotten until a roster names it again.
FAILURES_MAX = 20

# Before anything that happens.
NEVER = Instant(0.0)


async def keep_dialling(
    host: Host, address: tuple[str, int], role: Role, dice: Dice, *, is_upstream: bool = False
) -> None:
    """Keep a connection to one configured address, for ever."""
    pause = BACKOFF_MIN_S
    while True:
        began = host.clock.now()
        try:
            await host.lines.dial(address[0], address[1], role, is_upstream=is_upstream)
        except (FiredoorError, OSError) as error:
            log("dial-failed", address=f"{address[0]}:{address[1]}", why=str(error))
        if host.clock.now() - began > PROVED_S:
            pause = BACKOFF_MIN_S
        # Full jitter: a site that lost its mirror does not come back in one wave.
        await asyncio.sleep(pause * (0.5 + dice.fraction()))
        pause = min(pause * 2, BACKOFF_MAX_S)


@dataclass(slots=True)
class Hint:
    """Where a peer listens, says mDNS or a roster. `failures`: dials since one held."""

    host: str
    port: int
    role: Role
    failures: int = 0
    not_before: Instant = NEVER


class Neighbours:
    """The found peers that this node may dial, at most `dialled_max` at a time.

    A hint stays until it is taken back: mDNS does not tell twice of a service that it still holds,
    so a peer that is gone for a minute would else be gone for an hour.
    """

    def __init__(self, host: Host, dice: Dice, *, dialled_max: int) -> None:
        self._host = host
        self._dice = dice
        self._max = dialled_max
        self._known: dict[PeerId, Hint] = {}
        self._dialling: dict[PeerId, Role] = {}
        self._changed = asyncio.Event()

    def found(self, peer: PeerId, address: tuple[str, int], role: Role) -> None:
        """A peer exists at `address`, says mDNS or a roster; a hint, never trust."""
        known = self._known.get(peer)
        if known is not None and (known.host, known.port, known.role) == (*address, role):
            return
        if peer != self._host.settings.me and (known or len(self._known) < HINTS_MAX):
            self._known[peer] = Hint(*address, role)
            if role is Role.MIRROR:
                self._host.lines.hinted_mirrors.add(peer)
            self._changed.set()

    def hurry(self, peer: PeerId) -> None:
        """This peer has something that is missing here: dial it at once, whatever failed before."""
        if peer in self._known:
            self._known[peer].not_before = NEVER
            self._changed.set()

    def lost(self, peer: PeerId) -> None:
        """A peer has gone."""
        self._known.pop(peer, None)
        self._host.lines.hinted_mirrors.discard(peer)

    def addresses(self, role: Role) -> list[tuple[str, int]]:
        """Where known peers of this role listen."""
        return sorted((hint.host, hint.port) for hint in self._known.values() if hint.role is role)

    async def run(self) -> None:
        """Dial as peers appear and connections end, for ever."""
        while True:
            for peer in self._choose() if self._host.trusted.is_set() else ():
                hint = self._known[peer]
                self._dialling[peer] = hint.role
                self._host.start(self._dial(peer, hint))
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5 + self._dice.fraction()):
                    await self._changed.wait()

    def _choose(self) -> list[PeerId]:
        now = self._host.clock.now()
        free = [
            peer
            for peer in sorted(self._known)
            if peer not in self._host.lines.open
            and peer not in self._dialling
            and now >= self._known[peer].not_before
        ]
        mirrors = [peer for peer in free if self._known[peer].role is Role.MIRROR]
        others = [peer for peer in free if peer not in mirrors]
        dialling = [*self._dialling.values()].count(Role.MIRROR)
        chosen = mirrors[: max(0, MIRRORS_DIALLED_MAX - dialling)]
        room = max(0, self._max - len(self._mine()))
        while others and room:
            chosen.append(others.pop(self._dice.below(len(others))))
            room -= 1
        return chosen

    def _mine(self) -> set[PeerId]:
        """The endpoints that this node has dialled, or is dialling."""
        me = self._host.settings.me
        lines = [line for line in self._host.lines.open.values() if line.dialler == me]
        dialled = {line.peer.id for line in lines if line.peer.role is Role.AGENT}
        return dialled | {peer for peer, role in self._dialling.items() if role is Role.AGENT}

    async def _dial(self, peer: PeerId, hint: Hint) -> None:
        began = self._host.clock.now()
        try:
            await self._host.lines.dial(hint.host, hint.port, hint.role, expect=peer)
        except (FiredoorError, OSError) as error:
            log("dial-failed", peer=peer, address=f"{hint.host}:{hint.port}", why=str(error))
        finally:
            self._dialling.pop(peer, None)
        now = self._host.clock.now()
        hint.failures = 0 if now - began > PROVED_S else hint.failures + 1
        is_held = self._known.get(peer) is hint  # It may have moved during the dial.
        if hint.failures > FAILURES_MAX and hint.role is Role.AGENT and is_held:
            # A roster's endpoints come and go; a new roster brings back who lives.
            self.lost(peer)
        pause = min(BACKOFF_MIN_S * 2 ** min(hint.failures, _DOUBLINGS_MAX), BACKOFF_MAX_S)
        hint.not_before = after(now, Span(pause * (0.5 + self._dice.fraction())))

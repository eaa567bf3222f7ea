"""Whom to keep a standing connection with, and how to come back when it breaks.

* Static addresses are dialled for ever, with backoff and jitter.
* Neighbours (from a roster or found by mDNS) are dialled up to a number; the rest dial us.
"""

import asyncio
from contextlib import suppress

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import PeerId, Role
from firedoor.limits import HINTS_MAX, MIRRORS_DIALLED_MAX
from firedoor.runtime.host import Host
from firedoor.runtime.logs import log

# First retry soon, for a mirror that restarts; never more than this often once it stays away.
BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 15.0

# A connection that held this long has proved the address; its next loss starts from the minimum.
PROVED_S = 5.0


async def keep_dialling(
    host: Host, address: tuple[str, int], role: Role, dice: Dice, *, is_upstream: bool = False
) -> None:
    """Keep a connection to one configured address, for ever."""
    pause = BACKOFF_MIN_S
    while True:
        began = host.clock.now()
        try:
            await host.dial(address[0], address[1], role, is_upstream=is_upstream)
        except (FiredoorError, OSError) as error:
            log("dial-failed", address=f"{address[0]}:{address[1]}", why=str(error))
        if host.clock.now() - began > PROVED_S:
            pause = BACKOFF_MIN_S
        # Full jitter: a site that lost its mirror does not come back in one wave.
        await asyncio.sleep(pause * (0.5 + dice.fraction()))
        pause = min(pause * 2, BACKOFF_MAX_S)


class Neighbours:
    """The found peers that this node may dial, at most `dialled_max` at a time."""

    def __init__(self, host: Host, dice: Dice, *, dialled_max: int) -> None:
        self._host = host
        self._dice = dice
        self._max = dialled_max
        self._known: dict[PeerId, tuple[str, int, Role]] = {}
        self._dialling: set[PeerId] = set()
        self._changed = asyncio.Event()

    def found(self, peer: PeerId, address: tuple[str, int], role: Role) -> None:
        """A peer exists at `address`, says mDNS or a roster; a hint, never trust."""
        is_room = peer in self._known or len(self._known) < HINTS_MAX
        if peer != self._host.settings.me and is_room:
            self._known[peer] = (*address, role)
            self._changed.set()

    def lost(self, peer: PeerId) -> None:
        """A peer has gone."""
        self._known.pop(peer, None)

    def addresses(self, role: Role) -> list[tuple[str, int]]:
        """Where known peers of this role listen."""
        known = sorted(self._known.values(), key=str)
        return [(host, port) for host, port, each in known if each is role]

    async def run(self) -> None:
        """Dial as peers appear and connections end, for ever."""
        while True:
            for peer in self._choose() if self._host.trusted.is_set() else ():
                self._dialling.add(peer)
                self._host.start(self._dial(peer))
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5 + self._dice.fraction()):
                    await self._changed.wait()

    def _choose(self) -> list[PeerId]:
        free = [
            peer
            for peer in sorted(self._known)
            if peer not in self._host.lines and peer not in self._dialling
        ]
        mirrors = [peer for peer in free if self._known[peer][2] is Role.MIRROR]
        others = [peer for peer in free if peer not in mirrors]
        mine = [
            peer
            for peer, line in self._host.lines.items()
            if line.dialler == self._host.settings.me and line.peer.role is Role.AGENT
        ]
        room = max(0, self._max - len({*mine, *self._dialling}))
        chosen: list[PeerId] = []
        while others and len(chosen) < room:
            chosen.append(others.pop(self._dice.below(len(others))))
        dialling = sum(self._known[peer][2] is Role.MIRROR for peer in self._dialling_known())
        return [*mirrors[: max(0, MIRRORS_DIALLED_MAX - dialling)], *chosen]

    def _dialling_known(self) -> list[PeerId]:
        return [peer for peer in self._dialling if peer in self._known]

    async def _dial(self, peer: PeerId) -> None:
        host, port, role = self._known[peer]
        try:
            await self._host.dial(host, port, role, expect=peer)
        except (FiredoorError, OSError) as error:
            log("dial-failed", peer=peer, address=f"{host}:{port}", why=str(error))
            # A dead hint is forgotten; who lives will be found or listed again.
            self._known.pop(peer, None)
        finally:
            self._dialling.discard(peer)

"""Whom to keep a standing connection with, and how to come back when it breaks.

* Static addresses are dialled for ever, with backoff and jitter.
* Neighbours (from a roster or found by mDNS) are dialled up to a number; the rest dial us. Those
  that never proved themselves share few places, so that they cannot crowd out one that can.
"""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

from firedoor.dice import Dice
from firedoor.errors import FiredoorError, Unavailable
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import MIRRORS_DIALLED_MAX, STRANGERS_DIALLED_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write
from firedoor.runtime.host.connections import Connections
from firedoor.runtime.host.contract import Driver
from firedoor.runtime.logs import log
from firedoor.runtime.network.hints import NEVER, Hint, Hints
from firedoor.runtime.network.pacing import Rate
from firedoor.units import Instant, Span, after

# First retry soon, for a mirror that restarts; never more than this often once it stays away.
BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 15.0

# By then the backoff is at its most; a power of many more would be no number.
_DOUBLINGS_MAX = 10

# A connection that held this long has proved the address; its next loss starts from the minimum.
PROVED_S = 5.0

# An endpoint that failed this often, for minutes, is forgotten until it is named again.
FAILURES_MAX = 20

# Addresses refuse as fast as they are dialled; a stranger must not make this node dial for ever.
STRANGERS_PER_S = 64

# What makes a peer worth a dial at once is heeded this often, whoever says it.
HURRY_AGAIN_S = 1.0

# How often a crowd of hints is looked through, and the file of proved addresses written anew.
LOOK_S = 0.02
KEEP_S = 10.0


async def keep_dialling(
    connections: Connections,
    clock: Clock,
    address: tuple[str, int],
    role: Role,
    dice: Dice,
    *,
    is_upstream: bool = False,
) -> None:
    """Keep a connection to one configured address, for ever."""
    pause = BACKOFF_MIN_S
    while True:
        began = clock.now()
        try:
            await connections.dial(address[0], address[1], role, is_upstream=is_upstream)
        except (FiredoorError, OSError) as error:
            log("dial-failed", address=f"{address[0]}:{address[1]}", why=str(error))
        if clock.now() - began > PROVED_S:
            pause = BACKOFF_MIN_S
        # Full jitter: a site that lost its mirror does not come back in one wave.
        await asyncio.sleep(pause * (0.5 + dice.fraction()))
        pause = min(pause * 2, BACKOFF_MAX_S)


class Neighbours:
    """The found peers that this node may dial: at most `dialled_max` endpoints, and some mirrors.

    A hint stays though its peer says good-bye, for anybody can say it. `kept`: the file of proved
    addresses; None: they are forgotten at the end.
    """

    def __init__(
        self,
        driver: Driver,
        connections: Connections,
        dice: Dice,
        *,
        dialled_max: int,
        kept: Path | None = None,
    ) -> None:
        self._driver = driver
        self._connections = connections
        self._dice = dice
        self._max = dialled_max
        self._kept = kept
        self._hints = Hints(dice)
        self._rate = Rate(STRANGERS_PER_S, Span(1.0), driver.clock.now())
        self._changed = asyncio.Event()
        self._is_news = False
        connections.is_shown = self._has_shown
        if kept is not None:
            self._hints.load(kept)

    def found(self, peer: PeerId, address: tuple[str, int], role: Role) -> None:
        """A peer exists at `address`, says mDNS; a hint, never trust."""
        self._add(peer, address, role, is_told=False)

    def told(self, peer: PeerId, address: tuple[str, int]) -> None:
        """An endpoint exists at `address`, says the roster of a mirror."""
        self._add(peer, address, Role.AGENT, is_told=True)

    def _add(self, peer: PeerId, address: tuple[str, int], role: Role, *, is_told: bool) -> None:
        if peer == self._driver.settings.me:
            return
        hint = self._hints.add(peer, address, role, is_told=is_told)
        if hint.tried_at is None:
            self._changed.set()
        else:
            # Who announces itself anew has just started.
            self._hurry(hint)

    def hurry(self, peer: PeerId) -> None:
        """This peer has something that is missing here: dial it at once, whatever failed before."""
        for hint in self._hints.of(peer):
            self._hurry(hint)

    def _hurry(self, hint: Hint) -> None:
        now = self._driver.clock.now()
        if hint.tried_at is None or now - hint.tried_at >= HURRY_AGAIN_S:
            hint.not_before = NEVER
            self._changed.set()

    def _has_shown(self, mirror: PeerId) -> bool:
        """Whether the LAN shows this mirror."""
        return any(each.role is Role.MIRROR for each in self._hints.of(mirror))

    def addresses(self, role: Role) -> list[tuple[str, int]]:
        """Where known peers of this role may listen, in the order to ask them in."""
        return [(each.host, each.port) for each in self._hints.in_turn(role, lambda _: True)]

    async def run(self) -> None:
        """Dial as peers appear and connections end, for ever."""
        try:
            await self._run()
        finally:
            if self._is_news:
                self._keep(self._hints.kept())

    async def _run(self) -> None:
        next_kept = NEVER
        while True:
            now = self._driver.clock.now()
            for hint in self._choose(now) if self._driver.trusted.is_set() else ():
                hint.is_dialling = True
                self._driver.start(self._dial(hint))
            if self._is_news and now >= next_kept:
                self._is_news, next_kept = False, after(now, Span(KEEP_S))
                await asyncio.to_thread(self._keep, self._hints.kept())
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5 + self._dice.fraction()):
                    await self._changed.wait()
                    await asyncio.sleep(LOOK_S)
            self._changed.clear()

    def _keep(self, kept: bytes) -> None:
        """Write down what is proved; a full disk costs the next start some time."""
        if self._kept is None:
            return
        try:
            durable_write(self._kept, kept)
        except Unavailable as error:
            log("neighbours-not-kept", level="warning", why=str(error))

    def _choose(self, now: Instant) -> list[Hint]:
        connections = self._connections
        connected = connections.listening()
        dialling = [hint for hint in self._hints if hint.is_dialling]

        def is_due(hint: Hint) -> bool:
            known = hint.claimed if hint.is_told else None
            is_open = hint.proved in connections.open or known in connections.open
            is_here = is_open or (hint.host, hint.port) in connected
            return not hint.is_dialling and not is_here and now >= hint.not_before

        chosen: list[Hint] = []
        strangers = STRANGERS_DIALLED_MAX - sum(hint.is_stranger for hint in dialling)
        told = STRANGERS_DIALLED_MAX - sum(
            hint.is_told and hint.proved is None for hint in dialling
        )
        for role in (Role.MIRROR, Role.AGENT):
            room = self._most(role) - self._held(role)
            if room <= 0:
                continue  # A site's whole roster is not put in order once a second for nothing.
            for hint in self._hints.in_turn(role, is_due):
                if room <= 0:
                    break
                if hint.is_stranger and (strangers <= 0 or not self._rate.take(now)):
                    continue
                if hint.is_told and hint.proved is None:
                    if told <= 0:
                        continue
                    told -= 1
                strangers -= hint.is_stranger
                # Whoever has not proved itself has places of its own: it may hang.
                room -= hint.proved is not None
                chosen.append(hint)
        return chosen

    def _most(self, role: Role) -> int:
        return MIRRORS_DIALLED_MAX if role is Role.MIRROR else self._max

    def _held(self, role: Role) -> int:
        """The peers of a role that this node has dialled, or dials and knows."""
        lines, me = self._connections.open, self._driver.settings.me
        held = [each for each in lines.values() if each.dialler == me and each.peer.role is role]
        waiting = [
            hint
            for hint in self._hints
            if hint.is_dialling and hint.role is role and hint.proved is not None
            if hint.proved not in lines
        ]
        return len(held) + len(waiting)

    async def _dial(self, hint: Hint) -> None:
        began = hint.tried_at = self._driver.clock.now()
        try:
            on_open = partial(self._proved, hint)
            await self._connections.dial(
                hint.host, hint.port, hint.role, on_open=on_open, span_s=hint.span_s
            )
        except (FiredoorError, OSError) as error:
            where = f"{hint.host}:{hint.port}"
            log("dial-failed", peer=hint.proved or hint.claimed, address=where, why=str(error))
        finally:
            hint.is_dialling = False
        now = self._driver.clock.now()
        hint.failures = 0 if now - began > PROVED_S else hint.failures + 1
        if hint.failures > FAILURES_MAX and hint.role is Role.AGENT:
            # A roster's endpoints come and go; a new roster brings back who lives.
            self._hints.drop(hint)
        pause = min(BACKOFF_MIN_S * 2 ** min(hint.failures, _DOUBLINGS_MAX), BACKOFF_MAX_S)
        hint.not_before = after(now, Span(pause * (0.5 + self._dice.fraction())))

    def _proved(self, hint: Hint, peer: Peer) -> bool:
        """TLS has shown who listens there; whether to talk: once with each, and with no more.

        More are dialled at once than there is room for, as some may hang.
        """
        if peer.id == self._driver.settings.me:
            self._hints.drop(hint)
            return False
        self._is_news |= self._hints.prove(hint, peer.id)
        connection = self._connections.open.get(peer.id)
        if connection is not None:
            # A mirror that has dialled this node may be none of its sources until it is dialled.
            is_theirs = connection.dialler != self._driver.settings.me
            return hint.role is Role.MIRROR and is_theirs and not connection.is_upstream
        # This one is held by now, as it is proved.
        return self._held(hint.role) <= self._most(hint.role)

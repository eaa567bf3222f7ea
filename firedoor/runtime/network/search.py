"""Finding somebody of the fleet by mDNS for a command: an address counts once TLS has proved it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import FleetId, PeerId, Role
from firedoor.limits import STRANGERS_DIALLED_MAX
from firedoor.runtime.network.discovery import Browse
from firedoor.runtime.network.hints import Hint, Hints
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.units import Instant

# Where no mirror has answered by then, an order is handed to so many endpoints; they spread it.
_PATIENCE_S = 2.0
_ENDPOINTS_TRIED_MAX = 4

# Of one address, each twice as long as the one before.
_TRIES_MAX = 3


class Search:
    """What one command finds while it looks."""

    def __init__(self, client: PeerClient, dice: Dice) -> None:
        self._client = client
        self._hints = Hints(dice)
        self._trying: set[asyncio.Task[None]] = set()
        self._proved: asyncio.Queue[Hint] = asyncio.Queue()

    async def find(
        self, fleet: FleetId, interfaces: Sequence[str], span_s: float
    ) -> AsyncGenerator[tuple[Role, tuple[str, int]], None]:
        """Who proves itself within `span_s`, as it does: mirrors, and endpoints where none is.

        Raises:
            Unavailable: the interfaces are not this machine's.
        """
        waiting: list[Hint] = []
        has_mirror, loop = False, asyncio.get_running_loop()
        began = loop.time()
        try:
            async with Browse(fleet, interfaces, self._found):
                while (left := began + span_s - loop.time()) > 0:
                    is_patient = loop.time() - began < _PATIENCE_S
                    while waiting and not has_mirror and not is_patient:
                        hint = waiting.pop(0)
                        yield hint.role, (hint.host, hint.port)
                    look_s = min(left, _PATIENCE_S) if is_patient else left
                    try:
                        # Nothing is handed out in here: it would end whoever took it.
                        async with asyncio.timeout(look_s):
                            hint = await self._proved.get()
                    except TimeoutError:
                        continue
                    if hint.role is Role.MIRROR:
                        has_mirror = True
                        yield hint.role, (hint.host, hint.port)
                    elif len(waiting) < _ENDPOINTS_TRIED_MAX:
                        waiting.append(hint)
                for hint in waiting if not has_mirror else ():
                    yield hint.role, (hint.host, hint.port)
        finally:
            for task in self._trying:
                task.cancel()
            await asyncio.gather(*self._trying, return_exceptions=True)

    def _found(self, peer: PeerId, role: Role, address: tuple[str, int]) -> None:
        self._hints.add(peer, address, role, is_told=False)
        if len(self._trying) < STRANGERS_DIALLED_MAX:
            task = asyncio.ensure_future(self._try_all())
            self._trying.add(task)
            task.add_done_callback(self._trying.discard)

    async def _try_all(self) -> None:
        """Ask one address after the other who it is; mirrors first, and the slow ones again."""
        while (hint := self._next()) is not None:
            hint.tried_at, hint.is_dialling = Instant(asyncio.get_running_loop().time()), True
            try:
                peer = await self._client.prove(hint.host, hint.port, hint.role, span_s=hint.span_s)
                self._hints.prove(hint, peer.id)
                self._proved.put_nowait(hint)
            except FiredoorError:
                hint.failures += 1
            finally:
                hint.is_dialling = False

    def _next(self) -> Hint | None:
        for is_due in (_is_new, _is_worth_another_try):
            for role in (Role.MIRROR, Role.AGENT):
                for hint in self._hints.in_turn(role, is_due):
                    return hint
        return None


def _is_new(hint: Hint) -> bool:
    return hint.tried_at is None


def _is_worth_another_try(hint: Hint) -> bool:
    return hint.proved is None and not hint.is_dialling and hint.failures < _TRIES_MAX

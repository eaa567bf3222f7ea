"""Finding somebody of the fleet by mDNS for a command: an address counts once TLS has proved it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import FleetId, PeerId, Role
from firedoor.limits import STRANGERS_DIALLED_MAX
from firedoor.runtime.discovery import Browse
from firedoor.runtime.hints import Hint, Hints
from firedoor.runtime.peer_client import PeerClient
from firedoor.units import Instant

# After the first mirror others of the site have this long: one that answers may still be hostile,
# and an order goes to all that are found.
_MORE_S = 0.3

# Where no mirror answers, an order is handed to so many endpoints; they spread it.
_ENDPOINTS_TRIED_MAX = 4


class Search:
    """What one command finds while it looks."""

    def __init__(self, client: PeerClient, dice: Dice) -> None:
        self._client = client
        self._hints = Hints(dice)
        self._trying: set[asyncio.Task[None]] = set()
        self._proved: dict[Role, list[tuple[str, int]]] = {Role.MIRROR: [], Role.AGENT: []}
        self._has_mirror = asyncio.Event()

    async def find(
        self, fleet: FleetId, interfaces: Sequence[str], wait_s: float
    ) -> list[tuple[str, int]]:
        """Mirrors that have proved themselves, or endpoints where none has within `wait_s`.

        Raises:
            Unavailable: the interfaces are not this machine's.
        """
        try:
            async with Browse(fleet, interfaces, self._found):
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._has_mirror.wait()
                        await asyncio.sleep(_MORE_S)
        finally:
            for task in self._trying:
                task.cancel()
            await asyncio.gather(*self._trying, return_exceptions=True)
        return self._proved[Role.MIRROR] or self._proved[Role.AGENT][:_ENDPOINTS_TRIED_MAX]

    def _found(self, peer: PeerId, role: Role, address: tuple[str, int]) -> None:
        self._hints.add(peer, address, role, is_told=False)
        if len(self._trying) < STRANGERS_DIALLED_MAX:
            task = asyncio.ensure_future(self._try_all())
            self._trying.add(task)
            task.add_done_callback(self._trying.discard)

    async def _try_all(self) -> None:
        """Ask one address after the other who it is; mirrors first."""
        while (hint := self._next()) is not None:
            hint.is_dialling = True
            hint.tried_at = Instant(asyncio.get_running_loop().time())
            with suppress(FiredoorError):
                await self._client.prove(hint.host, hint.port, hint.role)
                self._proved[hint.role].append((hint.host, hint.port))
                if hint.role is Role.MIRROR:
                    self._has_mirror.set()

    def _next(self) -> Hint | None:
        for role in (Role.MIRROR, Role.AGENT):
            for hint in self._hints.in_turn(role, lambda each: each.tried_at is None):
                return hint
        return None

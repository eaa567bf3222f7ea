"""Handing out manifests and metadata: whole files, to whoever takes them slowly too.

A file is in memory once, however many ask for it at one time, and each asker holds a portion of it
in its connection; of one peer so many requests go on at once, and the others wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from firedoor.errors import Absent
from firedoor.identity import PeerId
from firedoor.limits import FILES_PER_PEER_MAX, GATE_BYTES


class SmallFiles:
    """What is being handed out at one time."""

    def __init__(self) -> None:
        self._reading: dict[str, asyncio.Future[bytes | None]] = {}
        self._users: dict[str, int] = {}
        self._turns: dict[PeerId, asyncio.Semaphore] = {}
        self._askers: dict[PeerId, int] = {}

    async def send(
        self,
        request: web.Request,
        peer: PeerId,
        read: Callable[[], Awaitable[bytes | None]],
        *,
        is_fixed: bool,
    ) -> web.StreamResponse:
        """Answer `request` with what `read` brings.

        `is_fixed`: what stands at the request's path never changes; only such bytes are shared, or
        who reads slowly would keep old ones in everybody's way.

        Raises:
            Absent: there is nothing.
        """
        name = request.path if is_fixed else f"{request.path} {id(request)}"
        async with self._turn(peer), self._shared(name, read) as data:
            if data is None:
                raise Absent(request.path, why="no such file here")
            response = web.StreamResponse()
            response.content_length = len(data)
            response.content_type = "application/octet-stream"
            await response.prepare(request)
            view = memoryview(data)
            for at in range(0, len(view), GATE_BYTES):
                await response.write(view[at : at + GATE_BYTES])
            await response.write_eof()
            return response

    @asynccontextmanager
    async def _turn(self, peer: PeerId) -> AsyncIterator[None]:
        turns = self._turns.setdefault(peer, asyncio.Semaphore(FILES_PER_PEER_MAX))
        self._askers[peer] = self._askers.get(peer, 0) + 1
        try:
            async with turns:
                yield
        finally:
            self._askers[peer] -= 1
            if not self._askers[peer]:
                del self._askers[peer], self._turns[peer]

    @asynccontextmanager
    async def _shared(
        self, name: str, read: Callable[[], Awaitable[bytes | None]]
    ) -> AsyncIterator[bytes | None]:
        if name not in self._reading:
            self._reading[name] = asyncio.ensure_future(read())
        reading = self._reading[name]
        self._users[name] = self._users.get(name, 0) + 1
        try:
            # Whoever gives up leaves the others theirs.
            yield await asyncio.shield(reading)
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._reading[name]

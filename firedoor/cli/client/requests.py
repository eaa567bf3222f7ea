"""One command's client, and the status of peers that it asks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from firedoor.errors import FiredoorError, Unavailable
from firedoor.limits import STATUS_BYTES_MAX
from firedoor.runtime.network.first_answer import first_answer

if TYPE_CHECKING:
    from firedoor.cli.client.peer_status import Answer
    from firedoor.runtime.keys.key_files import KeyFile
    from firedoor.runtime.network.peer_client import PeerClient

T = TypeVar("T")


def with_client(key: "KeyFile", work: "Callable[[PeerClient], Awaitable[T]]") -> T:
    """Run `work` with a client of this key's identity, and close it."""
    from firedoor.runtime.clocks import Clock  # noqa: PLC0415  # keeps --help fast
    from firedoor.runtime.keys.tls import credentials_of  # noqa: PLC0415
    from firedoor.runtime.network.pacing import Budget  # noqa: PLC0415
    from firedoor.runtime.network.peer_client import PeerClient  # noqa: PLC0415

    async def run() -> T:
        client = PeerClient(credentials_of(key), Clock(), Budget(0))
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def status_at(client: "PeerClient", address: tuple[str, int]) -> "Answer":
    """The status of a peer of any role.

    Raises:
        Unavailable: nobody answers there.
        Malformed: what it answers is no status.
    """
    from firedoor.cli.client.peer_status import answer_of  # noqa: PLC0415  # keeps --help fast
    from firedoor.identity import Role  # noqa: PLC0415

    body = await first_answer(
        (Role.MIRROR, Role.AGENT),
        lambda role: client.get(*address, "/v1/status", role=role, limit=STATUS_BYTES_MAX),
        nobody=Unavailable("status", why="nobody answers"),
    )
    return answer_of(body, f"the status of {address[0]}:{address[1]}")


async def first_status(client: "PeerClient", addresses: list[tuple[str, int]]) -> "Answer":
    """The status of the first of these peers that answers with one; raises as `status_at`."""
    return await first_answer(
        addresses,
        lambda address: status_at(client, address),
        nobody=Unavailable("status", why="no peer is known"),
        passed_over=FiredoorError,
    )

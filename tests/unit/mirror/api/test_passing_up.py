"""How a mirror hands up what its machines ask the origin for: by the line that orders take, too."""

import asyncio
from typing import Any

import pytest

from firedoor.errors import TooLarge, Unavailable, Untrusted
from firedoor.identity import Peer, PeerId, Role
from mirror.api.enrolment_routes import _WAITING_MAX, Forwarder

ASKER = Peer(PeerId("a" * 32), Role.AGENT, "branch")


class Upstream:
    """Counts what it is asked; answers, or refuses, once `may_answer`."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self._refuses = refuses

    async def post(self, *_: object, **__: object) -> bytes:
        self.asked += 1
        await self.may_answer.wait()
        if self._refuses:
            raise Untrusted("renewal", wanted="a machine of this fleet", got="another")
        return b"certificate"


def forwarder(upstream: Any) -> Forwarder:  # stands for a client
    return Forwarder(upstream, ("127.0.0.1:1",), b"ca")


def test_what_the_origin_refuses_is_paced_as_what_it_answers() -> None:
    async def work() -> None:
        upstream = Upstream(refuses=True)
        upstream.may_answer.set()
        one = forwarder(upstream)
        asking = [asyncio.ensure_future(one.renew(b"request", ASKER)) for _ in range(5)]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert upstream.asked < len(asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(work())


def test_so_many_wait_and_others_are_told_to_ask_again() -> None:
    async def work() -> None:
        upstream = Upstream()
        one = forwarder(upstream)
        asking = [asyncio.ensure_future(one.enrol(b"request")) for _ in range(_WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="ask again"):
            await one.enrol(b"request")
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        upstream.may_answer.set()
        assert await one.enrol(b"request") == b"certificate"

    asyncio.run(work())


def test_what_is_larger_than_any_request_is_not_handed_up() -> None:
    async def work() -> None:
        upstream = Upstream()
        with pytest.raises(TooLarge):
            await forwarder(upstream).enrol(bytes(2049))
        assert upstream.asked == 0

    asyncio.run(work())

"""DNS-SD between real zeroconf instances, on loopback only."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from zeroconf._dns import DNSQuestion
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_PTR

from firedoor.dice import Dice
from firedoor.errors import Unavailable
from firedoor.identity import FleetId, PeerId, Role
from firedoor.runtime.keys.tls import server_context
from firedoor.runtime.network.discovery import TYPES, Discovery
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.network.search import Search
from tests.unit.firedoor.runtime.network.test_transfers import (
    AGENT_SEED,
    MIRROR_SEED,
    StillClock,
    credentials,
)

FLEET, OTHER_FLEET = FleetId("a1" * 16), FleetId("b2" * 16)
MIRROR, SECOND_MIRROR, AGENT = PeerId("c3" * 16), PeerId("d4" * 16), PeerId("e5" * 16)
LOOPBACK = ("127.0.0.1",)
GROUP = ("224.0.0.251", 5353)

# Probing and announcing take a second or two by the standard; a hang takes longer.
DEADLINE_S = 20.0

pytestmark = pytest.mark.slow


class Seen:
    """What one program has found."""

    def __init__(self) -> None:
        self.found: dict[PeerId, tuple[Role, tuple[str, int]]] = {}
        self._changed = asyncio.Event()

    def discovery(
        self,
        me: PeerId,
        role: Role,
        port: int,
        *,
        fleet: FleetId = FLEET,
        interfaces: tuple[str, ...] = LOOPBACK,
    ) -> Discovery:
        return Discovery(
            fleet,
            me,
            role=role,
            site="branch",
            port=port,
            interfaces=interfaces,
            on_found=self._on_found,
        )

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    def _on_found(self, peer: PeerId, role: Role, address: tuple[str, int]) -> None:
        self.found[peer] = (role, address)
        self._changed.set()


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work

    asyncio.run(bounded())


def test_a_mirror_and_an_endpoint_find_each_other() -> None:
    async def work() -> None:
        mirror, agent = Seen(), Seen()
        async with (
            agent.discovery(AGENT, Role.AGENT, 7001),
            mirror.discovery(MIRROR, Role.MIRROR, 7002),
        ):
            await mirror.until(lambda: AGENT in mirror.found)
            await agent.until(lambda: MIRROR in agent.found)
        assert mirror.found == {AGENT: (Role.AGENT, ("127.0.0.1", 7001))}
        assert agent.found == {MIRROR: (Role.MIRROR, ("127.0.0.1", 7002))}

    run(work())


def test_other_fleets_and_oneself_are_not_found() -> None:
    async def work() -> None:
        ours, theirs = Seen(), Seen()
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            foreign = theirs.discovery(SECOND_MIRROR, Role.MIRROR, 7003, fleet=OTHER_FLEET)
            await enter(foreign)
            await enter(ours.discovery(MIRROR, Role.MIRROR, 7002))
            # Who comes last is heard last: by then the others have been heard and left out.
            await enter(Seen().discovery(AGENT, Role.AGENT, 7001))
            await ours.until(lambda: AGENT in ours.found)
        assert set(ours.found) == {AGENT}
        assert not theirs.found

    run(work())


@asynccontextmanager
async def listening(seed: bytes, role: Role) -> AsyncIterator[int]:
    """A peer that shows the certificate of this role; its port."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = server_context(credentials(seed, role))
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def searched(fleet: FleetId, interfaces: Sequence[str], wait_s: float) -> list[int]:
    """The ports that an operator finds."""
    client = PeerClient(credentials(b"\5" * 32, Role.OPERATOR), StillClock(), Budget(0))
    found: list[int] = []
    async with aclosing(Search(client, Dice(1)).find(fleet, interfaces, wait_s)) as search:
        async for role, (_, port) in search:
            found.append(port)
            if role is Role.MIRROR:
                break
    return found


def asked_in_vain(types: Sequence[str]) -> bool:
    """Whether nobody on loopback answers to these, asked as a simple resolver asks.

    Such an answer comes to whoever asks; what is announced at a start does not.
    """
    question = DNSOutgoing(_FLAGS_QR_QUERY)
    for each in types:
        question.add_question(DNSQuestion(each, _TYPE_PTR, _CLASS_IN))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        where = socket.inet_aton("127.0.0.1")
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, where)
        asker.bind(("127.0.0.1", 0))
        asker.settimeout(5.0)
        asker.sendto(question.packets()[0], GROUP)
        try:
            return not asker.recv(9000)
        except TimeoutError:
            return True


@pytest.mark.parametrize("role", [Role.MIRROR, Role.AGENT])
def test_a_peer_that_has_announced_itself_long_ago_answers_to_what_an_operator_asks(
    role: Role,
) -> None:
    async def work() -> None:
        async with Seen().discovery(MIRROR, role, 7002):
            assert not await asyncio.to_thread(asked_in_vain, TYPES)

    run(work())


def test_an_operator_finds_endpoints_where_no_mirror_answers() -> None:
    async def work() -> None:
        async with (
            listening(AGENT_SEED, Role.AGENT) as port,
            Seen().discovery(AGENT, Role.AGENT, port),
        ):
            assert await searched(FLEET, LOOPBACK, 3.0) == [port]

    run(work())


def test_an_operator_finds_the_mirrors_of_the_fleet_alone() -> None:
    async def work() -> None:
        async with (
            listening(MIRROR_SEED, Role.MIRROR) as port,
            Seen().discovery(MIRROR, Role.MIRROR, port),
            Seen().discovery(AGENT, Role.AGENT, 7001),
        ):
            assert await searched(FLEET, LOOPBACK, DEADLINE_S) == [port]
            assert await searched(OTHER_FLEET, LOOPBACK, 0.5) == []

    run(work())


def test_an_operator_believes_no_mirror_that_cannot_prove_to_be_one() -> None:
    async def work() -> None:
        async with (
            listening(AGENT_SEED, Role.AGENT) as port,
            # An endpoint's certificate where a mirror is said to be, and nobody at all.
            Seen().discovery(SECOND_MIRROR, Role.MIRROR, port),
            Seen().discovery(MIRROR, Role.MIRROR, 7009),
            Seen().discovery(AGENT, Role.AGENT, port),
        ):
            assert await searched(FLEET, LOOPBACK, 3.0) == [port]

    run(work())


def test_without_an_interface_nothing_is_sent_or_found() -> None:
    async def work() -> None:
        silent, agent = Seen(), Seen()
        async with (
            listening(AGENT_SEED, Role.AGENT) as port,
            silent.discovery(MIRROR, Role.MIRROR, 7002, interfaces=()),
            agent.discovery(AGENT, Role.AGENT, port),
        ):
            assert await searched(FLEET, LOOPBACK, 2.0) == [port]
            assert await searched(FLEET, (), 0.1) == []
        assert not silent.found
        assert not agent.found

    run(work())


def test_an_address_of_another_machine_is_named_in_the_error() -> None:
    async def work() -> None:
        with pytest.raises(Unavailable, match=r"192\.0\.2\.1"):
            async with Seen().discovery(MIRROR, Role.MIRROR, 7002, interfaces=("192.0.2.1",)):
                pass

    run(work())

"""What is remembered of where peers listen, and what a mirror says of its orders by mDNS."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.daemon import AgentDaemon
from firedoor.dice import Dice
from firedoor.identity import PeerId, Role
from firedoor.limits import HINTS_MAX, HINTS_OF_HOST_MAX, PROVED_MAX, PROVED_OF_PEER_MAX
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of, peer_of_certificate
from firedoor.runtime.network.hints import Hint, Hints
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.program.startup import ProgramIdentity
from firedoor.runtime.settings import AgentSettings
from firedoor.units import Instant
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import Bench

MIRROR = PeerId("1" * 32)
OTHERS = "0f" * 8


def follow(
    bench: Bench,
    folder: Path,
    story: Callable[[AgentDaemon, asyncio.Queue[None]], Coroutine[Any, Any, None]],
) -> None:
    """A story with an endpoint whose dial of a mirror has just failed, and each dial of it."""

    async def live(one: Endpoint) -> None:
        dials: asyncio.Queue[None] = asyncio.Queue()

        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dials.put_nowait(None)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = AgentSettings("root.json", str(folder / "state"), "branch")
        key = read_key_file(bench.fleet / "origin" / "identity.key", str)
        credentials = credentials_of(key)
        person = ProgramIdentity(
            peer_of_certificate(credentials.certificate, one.host.clock.unix()), credentials, key
        )
        renewal = Renewal(folder / "identity.key", one.host.client, one.host.clock)
        daemon = AgentDaemon(one.host, settings, person, renewal, lambda *_: [])
        running = asyncio.ensure_future(daemon.neighbours.run())
        daemon.neighbours.found(MIRROR, ("127.0.0.1", port), Role.MIRROR)
        await dials.get()
        [hint] = daemon.neighbours._hints.of(MIRROR)
        await one.until(lambda: hint.failures == 1)
        # As after an hour of failures: it would be dialled in a quarter of a minute at best.
        now = one.host.clock.now()
        hint.tried_at, hint.not_before = Instant(now - 15.0), Instant(now + 15.0)
        try:
            await story(daemon, dials)
        finally:
            running.cancel()
            await asyncio.wait({running})
            await one.until(lambda: not hint.is_dialling)
            server.close()
            await server.wait_closed()
            await one.host.client.close()

    Endpoint(bench, folder / "endpoint").run(live)


def test_a_mirror_that_holds_other_orders_is_dialled_at_once(bench: Bench, tmp_path: Path) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        daemon.heard_of_orders(MIRROR, OTHERS)
        async with asyncio.timeout(10):
            await dials.get()

    follow(bench, tmp_path, story)


def test_a_mirror_that_holds_the_same_orders_is_not(bench: Bench, tmp_path: Path) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        [hint] = daemon.neighbours._hints.of(MIRROR)
        same = daemon.host.node.orders.digest().hex()[: len(OTHERS)]
        daemon.heard_of_orders(MIRROR, same)
        assert hint.not_before > daemon.host.clock.now()
        assert dials.empty()

    follow(bench, tmp_path, story)


def test_what_a_mirror_says_of_its_orders_is_held_against_those_of_today(
    bench: Bench, tmp_path: Path
) -> None:
    async def story(daemon: AgentDaemon, dials: asyncio.Queue[None]) -> None:
        same = daemon.host.node.orders.digest().hex()[: len(OTHERS)]
        endpoint = daemon.host.program
        assert isinstance(endpoint, Endpoint)
        await endpoint.halt(PRODUCT, 4)
        daemon.heard_of_orders(MIRROR, same)
        async with asyncio.timeout(10):
            await dials.get()

    follow(bench, tmp_path, story)


# --- what is remembered ---------------------------------------------------------------------------


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def host(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def order_of(hints: Hints, role: Role = Role.MIRROR) -> list[Hint]:
    return hints.in_turn(role, lambda _: True)


def test_one_address_is_one_hint_whoever_is_said_to_listen_there() -> None:
    hints = Hints(Dice(1))
    for number in range(100):
        hints.add(peer(number), ("10.0.0.1", 7443), Role.MIRROR, is_told=False)
    assert len(order_of(hints)) == 1


def test_one_host_cannot_fill_what_is_remembered() -> None:
    hints = Hints(Dice(1))
    hints.add(MIRROR, ("10.0.0.2", 7443), Role.MIRROR, is_told=False)
    for port in range(1, 3000):
        hints.add(peer(port), ("10.0.0.1", port), Role.MIRROR, is_told=False)
    assert len(order_of(hints)) == HINTS_OF_HOST_MAX + 1
    assert hints.of(MIRROR)


def test_a_host_that_is_full_gives_up_one_that_was_tried() -> None:
    hints = Hints(Dice(1))
    made = [
        hints.add(peer(port), ("10.0.0.1", port), Role.MIRROR, is_told=False)
        for port in range(1, HINTS_OF_HOST_MAX + 1)
    ]
    made[3].tried_at = Instant(5.0)
    hints.add(MIRROR, ("10.0.0.1", 7443), Role.MIRROR, is_told=False)
    assert made[3] not in order_of(hints)
    assert len(order_of(hints)) == HINTS_OF_HOST_MAX


def test_a_crowd_of_hosts_is_bounded_and_takes_nothing_that_is_told_or_proved() -> None:
    hints = Hints(Dice(1))
    hints.prove(hints.add(MIRROR, (host(1), 7443), Role.MIRROR, is_told=False), MIRROR)
    hints.add(peer(2), (host(2), 7443), Role.AGENT, is_told=True)
    for number in range(3, HINTS_MAX + 200):
        hints.add(peer(number), (host(number), 7443), Role.AGENT, is_told=False)
    assert len([*hints]) == HINTS_MAX + 2
    assert hints.of(MIRROR)
    assert hints.of(peer(2))


def test_a_roster_is_bounded_too() -> None:
    hints = Hints(Dice(1))
    for number in range(HINTS_MAX + 200):
        hints.add(peer(number), (host(number), 7443), Role.AGENT, is_told=True)
    assert len([*hints]) == HINTS_MAX


def test_a_roster_is_bounded_though_the_oldest_that_it_named_have_proved_themselves() -> None:
    hints = Hints(Dice(1))
    told = [
        hints.add(PeerId(f"{number:032x}"), ("10.0.0.1", 1 + number), Role.AGENT, is_told=True)
        for number in range(100)
    ]
    for hint in told:
        hints.prove(hint, hint.claimed)
    for number in range(2 * HINTS_MAX):
        hints.add(PeerId("f" * 32), ("10.0.0.2", 1 + number), Role.AGENT, is_told=True)
    assert len([*hints]) <= HINTS_MAX + PROVED_MAX


def test_strangers_whom_a_roster_names_later_are_bounded_as_its_others() -> None:
    hints = Hints(Dice(1))
    for number in range(2 * HINTS_MAX):
        address = (f"10.0.{number // 250}.{number % 250}", 1)
        for is_told in (False, True):
            hints.add(PeerId(f"{number:032x}"), address, Role.AGENT, is_told=is_told)
    assert len([*hints]) <= HINTS_MAX


def test_a_crowd_with_one_address_each_is_bounded() -> None:
    hints = Hints(Dice(1))
    for number in range(HINTS_MAX + 500):
        address = (f"10.{number // 250}.0.{number % 250}", 1)
        hints.add(PeerId(f"{number:032x}"), address, Role.AGENT, is_told=False)
    assert len([*hints]) == HINTS_MAX


def test_the_proved_come_first_then_the_new_then_the_least_lately_tried() -> None:
    hints = Hints(Dice(1))
    made = [
        hints.add(peer(number), (host(number), 7443), Role.MIRROR, is_told=False)
        for number in range(4)
    ]
    made[0].tried_at, made[1].tried_at = Instant(9.0), Instant(3.0)
    hints.prove(made[3], peer(3))
    made[3].tried_at = Instant(99.0)
    assert order_of(hints) == [made[3], made[2], made[1], made[0]]


def test_nobody_foresees_in_which_order_new_ones_are_tried() -> None:
    firsts = set()
    for seed in range(40):
        hints = Hints(Dice(seed))
        for number in range(8):
            hints.add(peer(number), (host(number), 7443), Role.MIRROR, is_told=False)
        firsts.add(order_of(hints)[0].claimed)
    assert len(firsts) > 4


def test_each_host_has_one_turn_before_any_has_its_second() -> None:
    hints = Hints(Dice(1))
    for port in range(HINTS_OF_HOST_MAX):
        hints.add(peer(port), (host(1), 7000 + port), Role.MIRROR, is_told=False)
    for number in (2, 3):
        hints.add(peer(100 + number), (host(number), 7443), Role.MIRROR, is_told=False)
    assert {each.host for each in order_of(hints)[:3]} == {host(1), host(2), host(3)}
    # One of the first host's was tried: the others of it come last of all.
    order_of(hints)[[each.host for each in order_of(hints)].index(host(1))].tried_at = Instant(1.0)
    assert {each.host for each in order_of(hints)[:2]} == {host(2), host(3)}


def test_a_peer_that_moved_keeps_its_old_address_and_no_third() -> None:
    hints = Hints(Dice(1))
    for number in range(4):
        hints.prove(hints.add(MIRROR, (host(number), 1), Role.MIRROR, is_told=False), MIRROR)
    proved = [each.host for each in hints if each.proved == MIRROR]
    assert proved == [host(2), host(3)]
    assert len(proved) == PROVED_OF_PEER_MAX


def test_what_was_proved_is_known_at_the_next_start(tmp_path: Path) -> None:
    hints = Hints(Dice(1))
    for number in range(PROVED_MAX + 9):
        hint = hints.add(peer(number), (host(number), 7443), Role.AGENT, is_told=True)
        hints.prove(hint, peer(number))
    path = tmp_path / "neighbours.json"
    path.write_bytes(hints.kept())
    again = Hints(Dice(2))
    again.load(path)
    assert [each.proved for each in again] == [peer(number) for number in range(9, PROVED_MAX + 9)]
    assert again.kept() == hints.kept()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"proved": 3}',
        '{"proved": [3]}',
        '{"proved": [{"host": 3, "port": 1, "role": "mirror", "peer": "' + "a" * 32 + '"}]}',
        '{"proved": [{"host": "h", "port": 0, "role": "mirror", "peer": "' + "a" * 32 + '"}]}',
        '{"proved": [{"host": "h", "port": 1, "role": "king", "peer": "' + "a" * 32 + '"}]}',
        '{"proved": [{"host": "h", "port": 1, "role": "mirror", "peer": "../etc"}]}',
        "[" * 60_000,
        " " * 70_000,
    ],
)
def test_a_damaged_file_of_addresses_is_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "neighbours.json"
    path.write_text(text, "utf-8")
    hints = Hints(Dice(1))
    hints.load(path)
    assert not [*hints]


def test_a_file_of_addresses_that_is_a_pipe_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "neighbours.json")
    hints = Hints(Dice(1))
    hints.load(tmp_path / "neighbours.json")
    assert not [*hints]

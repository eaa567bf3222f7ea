"""What a node does with datagrams, and how often it says a halt: no socket is opened here."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from firedoor.dice import Dice
from firedoor.errors import Malformed, Refused, Unavailable
from firedoor.runtime.host.multicast import HEARD_ENOUGH, VERIFIED_PER_S, Multicast
from firedoor.runtime.network.pacing import Rate
from firedoor.units import Instant, Span

FROM = ("10.0.0.1", 7446)


class Node:
    """Counts what it is asked to admit, and answers as it is told to."""

    def __init__(self) -> None:
        self.admitted: list[bytes] = []
        self.refused: list[Refused] = []
        self.error: Exception | None = None

    def submit(self, record: bytes, sender: None, now: Instant) -> list[Any]:
        self.admitted.append(record)
        if self.error is not None:
            raise self.error
        return []

    def count_refusal(self, error: Refused) -> None:
        self.refused.append(error)


class Sender:
    """A socket that remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        self.sent.append(data)


def made() -> tuple[Multicast, Node, SimpleNamespace]:
    clock = SimpleNamespace(time=Instant(0.0))
    clock.now = lambda: clock.time
    node = Node()
    host = SimpleNamespace(clock=clock, node=node, apply=lambda effects: None)
    return Multicast(host, [], Dice(1)), node, clock


def test_the_same_datagram_is_looked_at_once() -> None:
    cast, node, _ = made()
    for _ in range(5):
        cast.datagram_received(b"halt", FROM)
    assert node.admitted == [b"halt"]


def test_a_flood_is_looked_at_so_often_a_second_and_no_more() -> None:
    cast, node, clock = made()
    node.error = Malformed("order", wanted="one", got="junk")
    for number in range(1000):
        cast.datagram_received(b"junk %d" % number, FROM)
    assert len(node.admitted) == VERIFIED_PER_S
    clock.time = Instant(1.0)
    for number in range(1000):
        cast.datagram_received(b"more %d" % number, FROM)
    assert len(node.admitted) == 2 * VERIFIED_PER_S
    assert len(node.refused) == 2 * VERIFIED_PER_S


def test_what_fits_no_datagram_is_not_looked_at() -> None:
    cast, node, _ = made()
    cast.datagram_received(bytes(1401), FROM)
    assert node.admitted == []


def test_before_there_are_keys_a_datagram_is_let_go_and_looked_at_when_it_comes_again() -> None:
    cast, node, _ = made()
    node.error = Unavailable("keys", why="none yet")
    cast.datagram_received(b"halt", FROM)
    node.error = None
    cast.datagram_received(b"halt", FROM)
    assert node.admitted == [b"halt", b"halt"]


@pytest.mark.slow
def test_a_halt_is_said_four_times_where_nobody_else_says_it() -> None:
    cast, _, _ = made()
    sender = Sender()
    cast._senders = [sender]  # type: ignore[list-item]  # what it asks of a socket
    asyncio.run(cast._say(b"halt"))
    assert sender.sent == [b"halt"] * 4


def test_who_has_heard_a_halt_often_enough_does_not_say_it() -> None:
    cast, _, _ = made()
    sender = Sender()
    cast._senders = [sender]  # type: ignore[list-item]  # what it asks of a socket
    for _ in range(HEARD_ENOUGH):
        cast.datagram_received(b"halt", FROM)
    asyncio.run(cast._say(b"halt"))
    assert sender.sent == []


def test_a_rate_gives_back_what_time_has_gained_and_no_more_than_it_has() -> None:
    rate = Rate(2, Span(1.0), Instant(0.0))
    assert [rate.take(Instant(0.0)) for _ in range(3)] == [True, True, False]
    assert [rate.take(Instant(0.5)) for _ in range(2)] == [True, False]
    assert [rate.take(Instant(60.0)) for _ in range(3)] == [True, True, False]

"""With whom of those that have proved themselves a node goes on talking."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from firedoor.dice import Dice
from firedoor.identity import Peer, PeerId, Role
from firedoor.runtime.host.connections import Connection
from firedoor.runtime.host.dialling import Neighbours
from tests.unit.endpoint import Endpoint
from tests.unit.origin_bench import Bench

DIALLED_MAX = 2


def named(number: int, role: Role) -> Peer:
    return Peer(PeerId(f"{number:032x}"), role, "branch")


class Looker:
    """An endpoint's neighbours, and the lines that it is said to have."""

    def __init__(self, one: Endpoint) -> None:
        self.me = one.host.settings.me
        self._connections = one.host.connections.open
        self._neighbours = Neighbours(
            one.host, one.host.connections, Dice(1), dialled_max=DIALLED_MAX
        )

    def hold(self, peer: Peer, *, dialler: PeerId, is_upstream: bool = False) -> None:
        nothing = cast("Any", None)
        self._connections[peer.id] = Connection(
            peer, nothing, dialler, "127.0.0.1", 1, is_upstream, nothing, nothing
        )

    def goes_on_with(self, peer: Peer) -> bool:
        """Whether it talks to a peer that its dial has just found."""
        address = ("127.0.0.1", int(peer.id, 16))
        hint = self._neighbours._hints.add(peer.id, address, peer.role, is_told=True)
        hint.is_dialling = True
        return self._neighbours._proved(hint, peer)


Look = Callable[[Callable[[Looker], None]], None]


@pytest.fixture
def look(bench: Bench, tmp_path: Path) -> Look:
    def run(story: Callable[[Looker], None]) -> None:
        async def live(one: Endpoint) -> None:
            story(Looker(one))
            one.host.connections.open.clear()
            await one.host.client.close()

        Endpoint(bench, tmp_path / "endpoint").run(live)

    return run


def test_of_many_that_answer_at_once_as_many_are_kept_as_there_is_room_for(look: Look) -> None:
    def story(looker: Looker) -> None:
        found = [looker.goes_on_with(named(number, Role.AGENT)) for number in range(1, 5)]
        assert found == [True, True, False, False]

    look(story)


def test_those_that_have_dialled_this_node_take_no_room(look: Look) -> None:
    def story(looker: Looker) -> None:
        for number in range(1, 5):
            looker.hold(named(number, Role.AGENT), dialler=PeerId(f"{number:032x}"))
        assert looker.goes_on_with(named(9, Role.AGENT))

    look(story)


def test_a_neighbour_that_has_dialled_this_node_is_talked_to_once(look: Look) -> None:
    def story(looker: Looker) -> None:
        theirs = named(1, Role.AGENT)
        looker.hold(theirs, dialler=theirs.id)
        assert not looker.goes_on_with(theirs)

    look(story)


def test_a_mirror_that_has_dialled_this_node_is_dialled_until_it_is_a_source(look: Look) -> None:
    def story(looker: Looker) -> None:
        mirror = named(1, Role.MIRROR)
        looker.hold(mirror, dialler=mirror.id)
        assert looker.goes_on_with(mirror)
        looker.hold(mirror, dialler=mirror.id, is_upstream=True)
        assert not looker.goes_on_with(mirror)

    look(story)


def test_what_this_node_has_dialled_it_talks_to_once(look: Look) -> None:
    def story(looker: Looker) -> None:
        mirror = named(1, Role.MIRROR)
        looker.hold(mirror, dialler=looker.me)
        assert not looker.goes_on_with(mirror)

    look(story)

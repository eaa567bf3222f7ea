"""What a hostile mirror's roster does to an endpoint's places for its neighbours."""

import asyncio
from pathlib import Path

import pytest

from firedoor.dice import Dice
from firedoor.identity import PeerId, Role
from firedoor.limits import HINTS_MAX
from firedoor.runtime.host.dialling import Neighbours
from firedoor.runtime.network.hints import Hints
from tests.attacks.test_spoofed_neighbours import REAL, SPAN_S, Abyss, door, fake, look_around
from tests.unit.origin_bench import Bench

NAMED = 300


def place(number: int, port: int) -> tuple[str, int]:
    return f"127.1.{number // 250}.{number % 250 + 1}", port


def test_a_neighbour_that_has_proved_itself_outlasts_all_that_rosters_name() -> None:
    """Two rosters of machines that do not exist must not make an endpoint forget a real one."""
    hints = Hints(Dice(1))
    real = hints.add(REAL, ("127.0.0.1", 7445), Role.AGENT, is_told=True)
    hints.prove(real, REAL)
    for number in range(HINTS_MAX + 1):
        hints.add(PeerId(fake(number)), place(number, 7445), Role.AGENT, is_told=True)
    assert any(each.proved == REAL for each in hints)


@pytest.mark.slow
def test_a_real_neighbour_is_dialled_beside_those_of_a_roster_that_never_answer(
    bench: Bench, tmp_path: Path
) -> None:
    """A mirror's word alone gives nobody a lasting place among the few that are dialled."""

    async def story(neighbours: Neighbours, abyss: Abyss) -> None:
        for number in range(NAMED):
            neighbours.told(fake(number), place(number, abyss.port))
        await asyncio.sleep(0.5)
        async with door() as (address, knocked):
            # On the LAN, and named by no roster.
            neighbours.found(REAL, address, Role.AGENT)
            async with asyncio.timeout(SPAN_S):
                await knocked.wait()

    look_around(bench, tmp_path, story)

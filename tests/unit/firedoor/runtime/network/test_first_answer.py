"""Peers are asked in turn, and the last error is the one that is raised."""

import asyncio
from collections.abc import Sequence

import pytest

from firedoor.errors import FiredoorError, Malformed, Unavailable
from firedoor.runtime.network.first_answer import first_answer

NOBODY = Unavailable("a peer", why="none is known")


def asked(
    answers: Sequence[str | FiredoorError], passed_over: type[FiredoorError] = Unavailable
) -> tuple[str, list[int]]:
    """What came of asking peers that answer so, and which of them were asked."""
    turns: list[int] = []

    async def ask(number: int) -> str:
        turns.append(number)
        answer = answers[number]
        if isinstance(answer, FiredoorError):
            raise answer
        return answer

    ways = range(len(answers))
    found = first_answer(ways, ask, nobody=NOBODY, passed_over=passed_over)
    return asyncio.run(found), turns


def test_the_first_answer_ends_it() -> None:
    assert asked([Unavailable("one", why="down"), "yes", "no"]) == ("yes", [0, 1])


def test_the_last_error_is_raised() -> None:
    with pytest.raises(Unavailable, match="two"):
        asked([Unavailable("one", why="down"), Unavailable("two", why="down")])


def test_without_candidates_that_is_said() -> None:
    with pytest.raises(Unavailable, match="none is known"):
        asked([])


def test_an_error_of_another_kind_ends_it() -> None:
    broken = Malformed("answer", wanted="JSON", got="junk")
    with pytest.raises(Malformed):
        asked([broken, "yes"])
    assert asked([broken, "yes"], FiredoorError) == ("yes", [0, 1])

"""Asking peers in turn until one answers; if none does, the last error says why.

The peers are asked one after the other, because an answer of the first is as good as any.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from firedoor.errors import FiredoorError, Unavailable

C = TypeVar("C")
A = TypeVar("A")


async def first_answer(
    candidates: Iterable[C],
    ask: Callable[[C], Awaitable[A]],
    *,
    nobody: FiredoorError,
    passed_over: type[FiredoorError] = Unavailable,
) -> A:
    """The answer of the first candidate that gives one.

    Raises:
        FiredoorError: the last error of class `passed_over`, or at once any other; `nobody` where
            there is no candidate.
    """
    last = nobody
    for candidate in candidates:
        try:
            return await ask(candidate)
        except passed_over as error:
            last = error
    raise last

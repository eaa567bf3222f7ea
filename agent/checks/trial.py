"""The trial of a release that was just activated: its checks, asked until there is a verdict.

* The first failure decides; nothing is well before its settle span is over (decisions/verdict.py).
* An order that wants the release gone ends the trial at once, a running check with it: a check may
  take half a minute, and a halt has seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent.checks.isolation import Runner
from agent.decisions.verdict import Verdict, verdict
from firedoor.units import Instant, Span

# How often the checks are asked within the settle span.
CHECK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked of a release of `product`, in its `folder`. `span` is for one check."""

    product: str
    checks: tuple[str, ...]
    folder: Path
    settle: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended; `UNDECIDED`: an order ended it. `detail`: the failure, for a person."""

    verdict: Verdict
    detail: str = ""


async def hold_trial(
    trial: Trial,
    runner: Runner,
    *,
    clock: Callable[[], Instant],
    ended_by_order: Callable[[], Awaitable[None]],
) -> Outcome:
    """Ask until there is a verdict, or until `ended_by_order()` returns."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_ask(trial, runner, clock))
        order = group.create_task(_wait(ended_by_order))
        await asyncio.wait({asking, order}, return_when=asyncio.FIRST_COMPLETED)
        # An order that came in the same turn as the verdict has the word.
        is_over = order.done()
        asking.cancel()
        order.cancel()
    return Outcome(Verdict.UNDECIDED) if is_over else asking.result()


async def _wait(ended_by_order: Callable[[], Awaitable[None]]) -> None:
    await ended_by_order()


async def _ask(trial: Trial, runner: Runner, clock: Callable[[], Instant]) -> Outcome:
    since = clock()
    while True:
        failure = await _first_failure(trial, runner)
        found = verdict(is_well=failure is None, settle_span=trial.settle, since=since, now=clock())
        if found is not Verdict.UNDECIDED:
            return Outcome(found, failure or "")
        await asyncio.sleep(min(CHECK_EVERY_S, max(0.0, since + trial.settle - clock())))


async def _first_failure(trial: Trial, runner: Runner) -> str | None:
    for command in trial.checks:
        result = await runner.run(
            command, folder=trial.folder, span=trial.span, product=trial.product
        )
        if not result.is_well:
            return f"{command}: {result.detail}"
    return None

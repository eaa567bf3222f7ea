"""What the answers of checks say about a release that was just activated.

* The first failure decides: what is unwell once is taken back, not asked until it says yes.
* Nothing is well before its settle span is over: the fault that matters shows late.

It runs no check and reads no clock.
"""

from enum import Enum

from firedoor.units import Instant, Span, between


class Verdict(Enum):
    """What is known so far. `UNDECIDED` asks for another round of checks."""

    WELL = "well"
    UNWELL = "unwell"
    UNDECIDED = "undecided"


def verdict(*, is_well: bool, settle_span: Span, since: Instant, now: Instant) -> Verdict:
    """The verdict after one round of checks, all of which passed if `is_well`.

    `since`: when the release was activated; `now`: when the round ended.
    """
    if not is_well:
        return Verdict.UNWELL
    return Verdict.WELL if between(since, now) >= settle_span else Verdict.UNDECIDED

"""The life of one product on one endpoint, as a table.

The journal holds the phase; a crash at any instant resumes by `RESUMES`. What the table lacks
cannot happen and is refused as our own mistake.
"""

from enum import Enum


class Phase(Enum):
    """Where a product stands. Written to the journal before what it names begins."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGING = "staging"
    STAGED = "staged"
    ACTIVATING = "activating"
    CHECKING = "checking"
    ROLLING_BACK = "rolling-back"


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.IDLE, Phase.FETCHING, Phase.STAGING, Phase.ROLLING_BACK}),
    # A newer release may appear, or a halt may come, while pieces arrive.
    Phase.FETCHING: frozenset({Phase.FETCHING, Phase.STAGING, Phase.IDLE, Phase.ROLLING_BACK}),
    # Staging ends in STAGED, or is aborted by the brake, a full disk or a piece found damaged, and
    # is then begun again, with fetching where a piece or the plan needs it.
    Phase.STAGING: frozenset(
        {Phase.STAGED, Phase.IDLE, Phase.STAGING, Phase.FETCHING, Phase.ROLLING_BACK}
    ),
    Phase.STAGED: frozenset({Phase.ACTIVATING, Phase.IDLE}),
    # A switch that the disk refuses to throw leaves the old one, and the plan is followed anew.
    Phase.ACTIVATING: frozenset(
        {Phase.CHECKING, Phase.ROLLING_BACK, Phase.IDLE, Phase.FETCHING, Phase.STAGING}
    ),
    Phase.CHECKING: frozenset({Phase.IDLE, Phase.ROLLING_BACK, Phase.CHECKING}),
    Phase.ROLLING_BACK: frozenset({Phase.IDLE, Phase.ROLLING_BACK}),
}

RESUMES: dict[Phase, Phase] = {
    Phase.IDLE: Phase.IDLE,
    Phase.FETCHING: Phase.IDLE,
    Phase.STAGING: Phase.IDLE,
    Phase.STAGED: Phase.IDLE,
    # Whether the switch was thrown is read from the switch; if so, the release is unproved.
    Phase.ACTIVATING: Phase.CHECKING,
    Phase.CHECKING: Phase.CHECKING,
    Phase.ROLLING_BACK: Phase.ROLLING_BACK,
}


def advance(now_in: Phase, to: Phase) -> Phase:
    """`to`, if the table allows it.

    Raises:
        RuntimeError: it does not; that is a mistake of ours.
    """
    if to not in NEXT[now_in]:
        raise RuntimeError(f"lifecycle: no way from {now_in.value} to {to.value}")
    return to

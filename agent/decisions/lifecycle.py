"""The life of one product on one endpoint, as a table.

The journal holds the phase. After a crash, and after any step that the world refused, the life
goes on by `RESUMES`; what neither table has cannot happen and is refused as our own mistake.
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
    # IDLE: the brake aborted it.
    Phase.STAGING: frozenset({Phase.STAGED, Phase.IDLE}),
    Phase.STAGED: frozenset({Phase.ACTIVATING, Phase.IDLE}),
    # ROLLING_BACK: the gate, asked once more after the switch, had closed.
    Phase.ACTIVATING: frozenset({Phase.CHECKING, Phase.ROLLING_BACK}),
    Phase.CHECKING: frozenset({Phase.IDLE, Phase.ROLLING_BACK}),
    # Again, where the disk refused to throw the switch back.
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

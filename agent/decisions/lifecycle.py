"""The life of one product on one endpoint, as a table.

The journal holds the phase. After a crash, and after any step that the world refused, the life
goes on by `RECOVERS_TO`; what neither table has cannot happen and is refused as our own mistake.
"""

from dataclasses import dataclass
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
    # ROLLING_BACK: while it waits for the word to switch, a halt takes back what runs.
    Phase.STAGED: frozenset({Phase.ACTIVATING, Phase.IDLE, Phase.ROLLING_BACK}),
    # ROLLING_BACK: the gate, asked once more after the switch, had closed.
    Phase.ACTIVATING: frozenset({Phase.CHECKING, Phase.ROLLING_BACK}),
    Phase.CHECKING: frozenset({Phase.IDLE, Phase.ROLLING_BACK}),
    # Again, where the disk refused to throw the switch back.
    Phase.ROLLING_BACK: frozenset({Phase.IDLE, Phase.ROLLING_BACK}),
}

RECOVERS_TO: dict[Phase, Phase] = {
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One product in the journal: its phase and the manifest that it is about.

    `good`: the release that last ran well here; `earlier`: the one that did so before it.
    """

    phase: Phase = Phase.IDLE
    manifest: str = ""
    good: str = ""
    earlier: str = ""

    @property
    def kept(self) -> tuple[str, ...]:
        """The releases that ran well here, the last one first."""
        return tuple(each for each in (self.good, self.earlier) if each)

    def moved(
        self, phase: Phase, *, manifest: str | None = None, good: str | None = None
    ) -> "Entry":
        """The entry in `phase`, as `advance` allows. `good`: what has just proved to run well."""
        is_new = good is not None and good != self.good
        return Entry(
            advance(self.phase, phase),
            self.manifest if manifest is None else manifest,
            self.good if good is None else good,
            self.good if is_new else self.earlier,
        )

    def recovered(self, *, is_switched: bool) -> "Entry":
        """The entry after a crash or a refused step.

        `is_switched`: the release that the phase is about is active, and not proved yet.
        """
        phase = RECOVERS_TO[self.phase] if is_switched else Phase.IDLE
        return Entry(phase, self.manifest, self.good, self.earlier)

"""The journalled life of one product: what lifecycle.py allows, written down before it begins.

A way forward needs the disk; a way back does not, for after a crash the switch itself tells what
runs. It knows no release's files and no brake.
"""

from collections.abc import Callable

from agent.decisions.lifecycle import RESUMES, Phase, advance
from agent.install.journal import Entry, Journal
from firedoor.errors import Unavailable
from firedoor.runtime.logs import log


class Life:
    """One product's entry in the journal. `on_change` is called after each change."""

    def __init__(self, journal: Journal, product: str, on_change: Callable[[], None]) -> None:
        self._journal = journal
        self._product = product
        self._on_change = on_change
        self._entry = journal.read(product)

    @property
    def phase(self) -> Phase:
        """Where the product stands."""
        return self._entry.phase

    @property
    def manifest(self) -> str:
        """The release that the phase is about."""
        return self._entry.manifest

    @property
    def kept(self) -> tuple[str, ...]:
        """The releases that ran well here, the last one first."""
        return tuple(each for each in (self._entry.good, self._entry.earlier) if each)

    def is_proved(self, manifest: str) -> bool:
        """Whether this release is the one that last ran well here."""
        return manifest == self._entry.good

    def note(self, phase: Phase, *, manifest: str | None = None, good: str | None = None) -> None:
        """Go on to `phase`, durably. `good`: what has just proved to run well.

        Raises:
            Unavailable: the disk is full; what the phase announces must not begin.
        """
        entry = self._next(advance(self.phase, phase), manifest, good)
        self._journal.write(self._product, entry)
        self._take(entry)

    def note_back(
        self, phase: Phase, *, manifest: str | None = None, good: str | None = None
    ) -> None:
        """The same on the way back, which a full disk must not stop."""
        entry = self._next(advance(self.phase, phase), manifest, good)
        try:
            self._journal.write(self._product, entry)
        except Unavailable as error:
            log("journal-full", level="error", why=str(error), do="free disk space")
        self._take(entry)

    def resume(self, *, is_switched: bool) -> None:
        """Go on after a crash or a refused step.

        `is_switched`: the release that the phase is about is active, and not proved yet. Nothing
        is written: what the journal says resumes the same way once more.
        """
        phase = RESUMES[self.phase] if is_switched else Phase.IDLE
        self._take(self._next(phase, None, None))

    def _next(self, phase: Phase, manifest: str | None, good: str | None) -> Entry:
        old = self._entry
        is_new = good is not None and good != old.good
        return Entry(
            phase,
            old.manifest if manifest is None else manifest,
            old.good if good is None else good,
            old.good if is_new else old.earlier,
        )

    def _take(self, entry: Entry) -> None:
        self._entry = entry
        self._on_change()

"""What the install machine sees of the world, and what it asks its host to do: data alone.

install.py decides; install/installer.py on a machine and simulator/endpoints.py perform.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.decisions.lifecycle import Entry
from firedoor.effects import Tell
from firedoor.errors import FiredoorError
from firedoor.units import Instant, Span


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the product by version and manifest id."""

    version: str
    manifest: str


# --- what the machine sees ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """The release to move to, which no order keeps from its next step.

    `lease_error`: why no lease covers that step, empty if one does; `hindrance`: why its checks
    cannot run on this machine; empty if they can, or while it is not whole or has no lease.
    """

    release: Release
    is_whole: bool
    is_fetching: bool = False
    lease_error: str = ""
    hindrance: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """The world at one instant.

    `staged`: every release on the disk, the active one included; `levels`, `contents`: of those
    and of the phase's release, as far as the node knows them, the level in force and the content
    digest by manifest; `may_run`: those that may be stepped back to, where something may step back;
    `hindrance`: why the checks of the active release cannot run, in phase CHECKING only;
    `neighbours`: endpoints of the site; `is_told`: somebody waits for the switch to what is armed.
    """

    now: Instant
    active: Release | None
    staged: tuple[Release, ...]
    levels: Mapping[str, int] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)
    may_run: frozenset[str] = frozenset()
    candidate: Candidate | None = None
    hindrance: str = ""
    neighbours: int = 1
    is_told: bool = False

    def level(self, manifest: str) -> int:
        """The highest level in force for a release; 0: none."""
        return self.levels.get(manifest, 0)

    def is_active(self, manifest: str) -> bool:
        """Whether this release is the current one."""
        return self.active is not None and self.active.manifest == manifest


# --- what the host does ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """Write `entry` durably, then call `noted`. `is_vital`: if that fails, stop here."""

    entry: Entry
    is_vital: bool = True


@dataclass(frozen=True, slots=True)
class Download:
    """Fetch this release."""

    release: Release


@dataclass(frozen=True, slots=True)
class Stage:
    """Put this release beside what runs."""

    release: Release


@dataclass(frozen=True, slots=True)
class Activate:
    """Make this staged release the current one, look at the gates again, and call `activated`."""

    release: Release


@dataclass(frozen=True, slots=True)
class Undo:
    """Make `before` the current release again; None: no release is."""

    before: Release | None


@dataclass(frozen=True, slots=True)
class StepBack:
    """Make this release, which ran well before, the current one."""

    release: Release


@dataclass(frozen=True, slots=True)
class Check:
    """Run the checks of this release until there is a verdict or an order, and call `checked`."""

    release: Release


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Never install this content again for this product; if the disk is full, go on."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Unstage:
    """Remove this release, which is not current."""

    release: Release


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Rename this release, which is not current, aside as evidence."""

    release: Release


@dataclass(frozen=True, slots=True)
class Arm:
    """Let this release switch when it is told to, and keep its lease fresh."""

    release: Release


@dataclass(frozen=True, slots=True)
class Disarm:
    """Nothing switches any more; a waiting `switch` fails with `why`."""

    why: FiredoorError


@dataclass(frozen=True, slots=True)
class Switched:
    """What was armed is active; a waiting `switch` succeeds."""

    release: Release


@dataclass(frozen=True, slots=True)
class Report:
    """Say this of the product to people from now on; empty: nothing is to be said."""

    detail: str


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Call `obey` and `plan` again after this span, or when something changes."""

    span: Span


InstallEffect = (Note | Download | Stage | Activate | Undo | StepBack | Check | MarkFailed) | (
    Unstage | Quarantine | Arm | Disarm | Switched | Report | LookAgain | Tell
)

"""What every handler can do. Each step may be cut short by a crash and is then done again."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from firedoor.pieces.handlers import Capabilities
from firedoor.pieces.manifest import Manifest


class Handler(Protocol):
    """Installs the releases of one product. A release is known by (version, manifest id)."""

    @property
    def capabilities(self) -> Capabilities:
        """What this handler promises."""

    def check_root(self, *, links_alone: bool = False) -> None:
        """Nothing, if nobody else can lead what is done below the root elsewhere; else Refused."""

    def stage(
        self,
        manifest: Manifest,
        manifest_id: str,
        *,
        store_get: Callable[[bytes], bytes | None],
        may_go_on: Callable[[], None],
    ) -> None:
        """Put the release beside what runs; `may_go_on` raises to abort, leaving nothing."""

    def activate(self, version: str, manifest_id: str) -> None:
        """Make a staged release the current one, atomically and durably."""

    def deactivate(self) -> None:
        """Make nothing current, durably; what is staged stays."""

    def active(self) -> tuple[str, str] | None:
        """The current release, read from the switch itself."""

    def staged(self) -> list[tuple[str, str]]:
        """Every release on the disk, the current one included."""

    def unstage(self, version: str, manifest_id: str) -> None:
        """Remove a release that is not current."""

    def quarantine(self, version: str, manifest_id: str) -> None:
        """Rename a release that is not current aside, as evidence."""

    def folder_of(self, version: str, manifest_id: str) -> Path:
        """Where its files are."""

    def sweep(self) -> None:
        """Remove what a crash left half-staged."""

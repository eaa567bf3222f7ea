"""Handler `files`: versions side by side, and one switch.

    root/versions/<version>-<manifest id>/   the release's files
    root/current                             symbolic link to the one that runs
    root/quarantine/                         evidence

On Windows, where links need a privilege, `current.txt` names the version instead (untested there).
Nothing else in `root` is ever touched: a `current` that is no link of ours is refused.
"""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from firedoor.errors import Malformed, NoRoom, Unavailable
from firedoor.identity import NAME
from firedoor.limits import STAGED_LEFT_FREE_BYTES, STAGED_LEFT_FREE_PART
from firedoor.pieces.handlers import HANDLERS
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.files import PUBLIC_MODE, durable_write, sync_folder
from firedoor.runtime.storage.tree import write_tree

_ID_DIGITS = 64
_HALF = ".half-"


class FilesHandler:
    """The versions of one product under one root."""

    capabilities = HANDLERS["files"]

    def __init__(self, root: Path) -> None:
        self._root = root
        self._versions = root / "versions"
        self._quarantine = root / "quarantine"
        _make(self._root)
        _make(self._versions)

    def check_root(self, *, links_alone: bool = False) -> None:
        """Nothing, if only this program's user, or root, can change what lies right below the root.

        Raises:
            Malformed: the root, or a folder of ours in it, is a link, of another user, or others
                can write it: a step here could be led to files of somebody else.
            Unavailable: the root is gone.

        `links_alone`: owner and mode are not looked at.
        """
        for path in (self._root, self._versions, self._quarantine, self._root / ".firedoor"):
            is_needed = path in {self._root, self._versions}
            _check_owned(path, is_needed=is_needed, links_alone=links_alone)

    def stage(
        self,
        manifest: Manifest,
        manifest_id: str,
        *,
        store_get: Callable[[bytes], bytes | None],
        may_go_on: Callable[[], None],
    ) -> None:
        """Put the release beside what runs; staged already is no work.

        Raises:
            NoRoom: unpacked it is more than this disk has left; nothing was written.
            Unavailable, Untrusted, Halted: as `write_tree` says.
        """
        folder = self.folder_of(manifest.version, manifest_id)
        if folder.is_dir():
            return
        self._make_sure_of_room(manifest)
        half = self._versions / f"{_HALF}{manifest_id}"
        if half.exists():
            shutil.rmtree(half)
        write_tree(manifest, store_get, old={}, target=half, may_go_on=may_go_on)
        half.rename(folder)
        sync_folder(self._versions)

    def activate(self, version: str, manifest_id: str) -> None:
        """Point the switch at a staged release.

        Raises:
            Malformed: that release is not staged here, or the switch is somebody else's file.
        """
        folder = self.folder_of(version, manifest_id)
        if not folder.is_dir():
            raise Malformed(str(folder), wanted="a staged release", got="nothing")
        self._check_switch()
        if sys.platform == "win32":
            durable_write(self._root / "current.txt", folder.name.encode(), PUBLIC_MODE)
            return
        fresh = self._root / ".current-new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("versions") / folder.name)
        fresh.replace(self._root / "current")
        sync_folder(self._root)

    def deactivate(self) -> None:
        """Remove the switch: nothing is current. What is staged stays.

        Raises:
            Malformed: the switch is somebody else's file.
        """
        self._check_switch()
        name = "current.txt" if sys.platform == "win32" else "current"
        (self._root / name).unlink(missing_ok=True)
        sync_folder(self._root)

    def active(self) -> tuple[str, str] | None:
        """The current release, if the switch points at one of ours."""
        try:
            if sys.platform == "win32":
                target = "versions/" + (self._root / "current.txt").read_text("utf-8")
            else:
                target = (self._root / "current").readlink().as_posix()
        except (OSError, UnicodeDecodeError):
            return None
        parent, _, name = target.rpartition("/")
        found = _parse(name) if parent == "versions" else None
        return found if found is not None and (self._versions / name).is_dir() else None

    def staged(self) -> list[tuple[str, str]]:
        """Every release under `versions`, sorted."""
        found = [_parse(path.name) for path in sorted(self._versions.iterdir()) if path.is_dir()]
        return [each for each in found if each is not None]

    def unstage(self, version: str, manifest_id: str) -> None:
        """Remove a release; the current one is refused.

        Raises:
            Malformed: it is the current one.
        """
        folder = self._idle_folder(version, manifest_id)
        if folder.is_dir():
            # Renamed first: a crash in mid-removal must not leave a release that looks whole.
            half = self._versions / f"{_HALF}{manifest_id}"
            if half.exists():
                shutil.rmtree(half)
            folder.rename(half)
            shutil.rmtree(half)
            sync_folder(self._versions)

    def quarantine(self, version: str, manifest_id: str) -> None:
        """Rename a release aside; no file in it is opened or changed.

        Raises:
            Malformed: it is the current one.
        """
        folder = self._idle_folder(version, manifest_id)
        if folder.is_dir():
            self._quarantine.mkdir(exist_ok=True)
            # The same release may come and go again; earlier evidence is kept.
            aside = self._quarantine / folder.name
            number = 1
            while os.path.lexists(aside):
                number += 1
                aside = self._quarantine / f"{folder.name}.{number}"
            folder.rename(aside)
            sync_folder(self._quarantine)
            sync_folder(self._versions)

    def folder_of(self, version: str, manifest_id: str) -> Path:
        """Where the files of a release are, or would be."""
        return self._versions / f"{version}-{manifest_id}"

    def sweep(self) -> None:
        """Remove what a crash left half-staged or half-removed."""
        for path in self._versions.glob(f"{_HALF}*"):
            shutil.rmtree(path)

    def _make_sure_of_room(self, manifest: Manifest) -> None:
        # Its signed figures: what is packed well may be much more than what was fetched.
        size = sum(file.size for file in manifest.files)
        disk = shutil.disk_usage(self._versions)
        kept = min(STAGED_LEFT_FREE_BYTES, int(disk.total * STAGED_LEFT_FREE_PART))
        if size > disk.free - kept:
            why = (
                f"it takes {size:,} bytes and leaves {kept:,}, "
                f"and {disk.free:,} are free on that disk"
            )
            raise NoRoom(f"staging {manifest.version} in {self._versions}", why=why)

    def _check_switch(self) -> None:
        switch = self._root / "current"
        is_foreign = os.path.lexists(switch) and not switch.is_symlink()
        if sys.platform != "win32" and is_foreign:
            raise Malformed(str(switch), wanted="a link made here", got="somebody's own file")

    def _idle_folder(self, version: str, manifest_id: str) -> Path:
        if self.active() == (version, manifest_id):
            raise Malformed(version, wanted="a release that is not current", got="the current one")
        return self.folder_of(version, manifest_id)


def _parse(name: str) -> tuple[str, str] | None:
    version, _, manifest_id = name.rpartition("-")
    is_id = len(manifest_id) == _ID_DIGITS and set(manifest_id) <= set("0123456789abcdef")
    return (version, manifest_id) if is_id and NAME.fullmatch(version) else None


def _make(folder: Path) -> None:
    """Make a folder with a mode of its own, for what runs from it may be another user's."""
    if not os.path.lexists(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


def _check_owned(path: Path, *, is_needed: bool, links_alone: bool) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        if is_needed:
            raise Unavailable(str(path), why="it is gone") from error
        return
    if not stat.S_ISDIR(found.st_mode):
        raise Malformed(str(path), wanted="a folder", got="a link or a file")
    if sys.platform == "win32" or links_alone:
        return
    if found.st_uid not in {0, os.geteuid()}:
        raise Malformed(
            str(path), wanted="a folder of the agent's user", got=f"user {found.st_uid}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        wanted, got = "a folder that nobody else can write", f"mode {found.st_mode & 0o7777:04o}"
        raise Malformed(str(path), wanted=wanted, got=got)

"""What this peer knows of releases: signed metadata, the list of releases, their manifests.

* Metadata is believed by python-tuf's client alone (trust_client.py); this file moves the bytes,
  keeps them for those who sync from here, and turns the result into records.
* A file is served only after the refresh that fetched it has succeeded, timestamp.json last.
* A manifest is kept under the digest that the signed metadata gave, and read back against it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from firedoor.errors import FiredoorError, TooLarge, Unavailable, Untrusted
from firedoor.identity import FleetId
from firedoor.limits import MANIFEST_BYTES_MAX, METADATA_BYTES_MAX
from firedoor.pieces.manifest import Manifest, decode_manifest
from firedoor.pieces.manifest_reading import LARGE, Bound
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log
from firedoor.runtime.metadata.release_entries import ReleaseEntry, superseded
from firedoor.runtime.metadata.trust_client import TrustClient
from firedoor.trust.keys import Authority, controller_of

# One file of metadata over the thinnest branch; beyond this another mirror is asked.
METADATA_SPAN_S = 30.0

Get = Callable[[str, int], Awaitable[bytes]]
"""Fetches a /v1 path of at most so many bytes from some mirror; raises Unavailable or Refused."""


# What a file system allows for a name; TUF's longest here are a publisher's, 64 characters.
_NAME_BYTES_MAX = 255


class Catalogue:
    """Metadata, releases and manifests under one state folder."""

    def __init__(
        self, folder: Path, *, root: bytes, fleet: FleetId, clock: Clock, bound: Bound = LARGE
    ) -> None:
        """`bound`: of manifests that are taken in; those that are held are read whatever it is."""
        self._clock = clock
        self._bound = bound
        self._served = folder / "served"
        self._manifests = folder / "manifests"
        self._get: Get | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        for each in (self._served, self._manifests, folder / "trusted"):
            each.mkdir(parents=True, exist_ok=True)
        if not (self._served / "1.root.json").exists():
            durable_write(self._served / "1.root.json", root)
        self._trust = TrustClient(folder / "trusted", fleet, self._fetch, root)
        self.authority: Authority | None = None
        self.releases: tuple[ReleaseEntry, ...] = ()
        self._ignored: set[tuple[str, str]] = set()
        self.dateless: tuple[ReleaseEntry, ...] = ()
        self.timestamp = 0

    def load(self) -> None:
        """Believe what an earlier run kept, without asking anybody; nothing kept is no error."""
        try:
            self.releases = tuple(self._refresh())
            if not self._trust.wanting:
                self.timestamp = self._trust.timestamp_version()
        except FiredoorError:
            # Past its dates, for one: the keys still serve to verify halts.
            with suppress(FiredoorError):
                self.dateless = tuple(self._trust.kept_releases())
            with suppress(FiredoorError):
                self.authority = self._authority(self.dateless)

    async def look_at_dates(self) -> None:
        """Judge anew whether what is trusted is within its dates: time goes on meanwhile."""
        async with self._lock:
            with suppress(FiredoorError):
                listed = self.releases or self.dateless
                self.authority = await asyncio.to_thread(self._authority, listed)

    async def refresh(self, get: Get, targets: int = 0) -> None:
        """Fetch and verify all metadata through `get`.

        `targets`: the version that the peer announced. When dates fail, a wrong clock here or an
        old mirror there, the keys of that version still serve to verify halts.

        Raises:
            Unavailable, Refused: nothing new is believed, or not all of it: a publisher's list
                could not be had, and the one before it counts. Another source may have it.
        """
        async with self._lock:
            self._get, self._loop = get, asyncio.get_running_loop()
            try:
                self.releases = tuple(await asyncio.to_thread(self._refresh))
                await asyncio.to_thread(self._publish_fresh)
                self._require_all_lists()
            except FiredoorError:
                await asyncio.to_thread(self._publish_roots)
                if not await asyncio.to_thread(self._refresh_authority, targets):
                    raise
            finally:
                self._get = None

    def served(self, name: str) -> bytes | None:
        """One metadata file for those who sync from here."""
        # TUF quotes a role's name in its file's name; HTTP unquotes it on the way.
        name = name.replace("/", "%2F")
        is_name = "\\" not in name and "\0" not in name and not name.startswith(".")
        if not is_name or len(name.encode()) > _NAME_BYTES_MAX:
            return None
        return _held(self._served / name, METADATA_BYTES_MAX)

    def files(self) -> dict[str, bytes]:
        """All metadata that is trusted here, by the names that it is served under.

        Raises:
            Unavailable, Malformed: there is none, or it is damaged.
        """
        return self._trust.kept_files()

    def role_file(self, role: str) -> bytes:
        """The verified metadata of a delegated role, as the last refresh kept it.

        Raises:
            Unavailable: there is none.
        """
        return self._trust.role_file(role)

    def top_file(self, role: str) -> bytes:
        """The verified metadata of root or targets, as the last refresh kept it.

        Raises:
            Unavailable: there is none.
        """
        return self._trust.top_file(role)

    def entry(self, manifest: str) -> ReleaseEntry | None:
        """The release whose manifest has this digest, if signed metadata lists it."""
        return next((entry for entry in self.releases if entry.manifest == manifest), None)

    def manifest_bytes(self, manifest: str) -> bytes | None:
        """A manifest that is held here and still has its digest."""
        if len(manifest) != 64 or not manifest.isalnum():  # noqa: PLR2004  # hex of SHA-256
            return None
        data = _held(self._manifests / manifest, MANIFEST_BYTES_MAX)
        return data if data is not None and sha256(data).hexdigest() == manifest else None

    def held_manifest(self, manifest: str) -> Manifest | None:
        """The manifest that is held here, read.

        Raises:
            Refused: it is of a form that this version does not take.
        """
        data = self.manifest_bytes(manifest)
        return decode_manifest(data) if data is not None else None

    def keep_manifest(self, manifest: str, data: bytes) -> Manifest:
        """Check a manifest against its digest, read it, and keep it durably.

        Raises:
            Untrusted: the bytes have another digest.
            Malformed, TooLarge: it is no manifest.
        """
        digest = sha256(data).hexdigest()
        if digest != manifest:
            raise Untrusted("manifest", wanted=manifest[:12], got=digest[:12])
        read = decode_manifest(data, self._bound)
        durable_write(self._manifests / manifest, data)
        return read

    async def manifest(self, entry: ReleaseEntry, get: Get) -> Manifest:
        """The manifest of a release, from here or through `get`.

        Raises:
            Unavailable, Refused: it cannot be had.
        """
        held = await asyncio.to_thread(self.held_manifest, entry.manifest)
        if held is not None:
            return held
        path = f"/v1/targets/releases/{entry.product}/{entry.manifest}.{entry.version}"
        if entry.length > self._bound.size:
            raise TooLarge(
                f"manifest of {entry.version}", limit=self._bound.size, size=entry.length
            )
        data = await get(path, entry.length)
        return await asyncio.to_thread(self.keep_manifest, entry.manifest, data)

    def _refresh(self) -> list[ReleaseEntry]:
        self._trust.refresh()
        # The keys of today serve even where the lists cannot be read.
        self.authority = self._authority(self.releases)
        releases = self._trust.releases()
        self.authority = self._authority(releases)
        for role, why in self._trust.unlisted.items():
            log("publisher-unlisted", level="error", role=role, why=why, do="publish or sign anew")
        for role, product in sorted(self._trust.ignored - self._ignored):
            log("rows-ignored", level="error", role=role, product=product, do="is its key stolen?")
        self._ignored = self._trust.ignored
        return releases

    def _authority(self, listed: Sequence[ReleaseEntry]) -> Authority:
        """Who may sign what now: by root's word, and the controllers of these releases.

        Of a list that is past its dates too: what it names can still be halted.
        """
        kept: list[ReleaseEntry] = []
        with suppress(FiredoorError):
            kept = self._trust.kept_releases()
        controllers = {
            (each.product, each.version): controller_of(each.controller)
            for each in (*kept, *listed)
            if each.controller
        }
        return replace(self._trust.authority(self._clock.unix()), controllers=controllers)

    def _refresh_authority(self, targets: int) -> bool:
        """Whether keys for halts could be had without regard to dates."""
        if not targets and self.authority is not None:
            return not self.authority.is_fresh
        targets = targets or self._hinted_targets()
        try:
            self._trust.refresh_authority(targets)
            self.authority = self._authority(self.releases or self.dateless)
        except FiredoorError:
            return False
        return not self.authority.is_fresh

    def _hinted_targets(self) -> int:
        """The version of targets that the peer's own files lead to, unverified; 0: they do not.

        For a first contact under a wrong clock: root's signature is checked on what it leads to.
        """
        try:
            timestamp = json.loads(self._fetch("timestamp.json", METADATA_BYTES_MAX))
            version = int(timestamp["signed"]["meta"]["snapshot.json"]["version"])
            snapshot = json.loads(self._fetch(f"{version}.snapshot.json", METADATA_BYTES_MAX))
            return int(snapshot["signed"]["meta"]["targets.json"]["version"])
        except (FiredoorError, ValueError, KeyError, TypeError, RecursionError):
            return 0

    def _publish_fresh(self) -> None:
        """Serve what is trusted, and nothing else, timestamp.json last."""
        trusted = self._trust.kept_files()
        last = trusted.pop("timestamp.json", None)
        for name, data in trusted.items():
            if data != self.served(name):
                durable_write(self._served / name, data)
        if last is not None and last != self.served("timestamp.json"):
            durable_write(self._served / "timestamp.json", last)
        newest = {unquote(role): version for version, role in map(_parts, trusted)}
        for name in superseded(newest, self._served):
            (self._served / name).unlink(missing_ok=True)
        # Not before: who hears of a version asks for it at once, and must not get the one before.
        # Not while a list is wanting either: whoever claims this timestamp is then asked for it.
        if not self._trust.wanting:
            self.timestamp = self._trust.timestamp_version()

    def _require_all_lists(self) -> None:
        for role, why in self._trust.wanting.items():
            raise Unavailable(f"the list of {role}", why=why)

    def _publish_roots(self) -> None:
        # A root proves itself by the one before it: whoever syncs from here may need it now.
        with suppress(FiredoorError):
            for name, data in self._trust.kept_roots().items():
                if not (self._served / name).exists():
                    durable_write(self._served / name, data)

    def _fetch(self, name: str, limit: int) -> bytes:
        if self._get is None:
            kept = self.served(name)
            if kept is None:
                raise Unavailable(name, why="not kept here")
            return kept
        assert self._loop is not None
        work = self._get(f"/v1/metadata/{name}", limit)
        waiting = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
        try:
            data = waiting.result(METADATA_SPAN_S)
        except TimeoutError as error:
            waiting.cancel()
            raise Unavailable(name, why=f"no answer within {METADATA_SPAN_S:.0f} s") from error
        return data


def _parts(name: str) -> tuple[int, str]:
    """Version and role of a metadata file's name."""
    version, _, role = name.removesuffix(".json").partition(".")
    return int(version), role


def _held(path: Path, limit: int) -> bytes | None:
    """A file here; None: there is none, or something else stands in its place."""
    try:
        return read_regular(path, limit)
    except FileNotFoundError:
        return None
    except FiredoorError as error:
        log("file-not-served", level="error", why=str(error), do="remove what is there")
        return None


async def _awaited(work: Awaitable[bytes]) -> bytes:
    return await work

"""The client side of trust: python-tuf's `Updater` behind our own fetcher, made durable.

* One `Updater` per refresh: its reference time is fixed when it is made.
* python-tuf never syncs; after each refresh the files that it wrote and their folder are synced.
* Dates stop releases and resumes, never halts: `refresh_authority` takes newer keys from a targets
  file that the root has signed, whatever the date.

Blocking, so callers use a thread; no two share a folder. Source: TUF specification 5; FACTS.md.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from firedoor.errors import FiredoorError, Malformed, Refused, Stale, Unavailable, Untrusted
from firedoor.identity import FleetId
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.runtime.files import durable_write, sync_folder
from firedoor.runtime.metadata.owners import Owners
from firedoor.runtime.metadata.release_entries import ReleaseEntry, entries_of
from firedoor.trust.keys import Authority, authority_of, register
from firedoor.trust.repository import GRANTS, is_publisher, own_path
from firedoor.units import UnixTime

Fetch = Callable[[str, int], bytes]
"""Returns the metadata file of that name, at most so many bytes; raises Unavailable or Refused."""

_BASE = "https://mirror.invalid/"
# Matches every publisher's paths and can be no release: no name starts with a dash.
_ANY_RELEASE = "releases/-/-"

# python-tuf's own 32 would leave a 32nd publisher's file unverified in silence.
_DELEGATIONS_MAX = 4096

# Keys from a file that is past its dates; python-tuf's own targets.json stays python-tuf's.
_DATELESS = "authority-targets.json"


class _Settled(Untrusted):
    """A list that has run out, or a role that cannot have one: no source has a better one."""


class TufFetcher(FetcherInterface):
    """Hands python-tuf's requests to a plain function, by file name."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_name = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE) if url.startswith(_BASE) else url
        try:
            yield self._fetch_name(name, METADATA_BYTES_MAX)
        except (Unavailable, Refused) as error:
            # python-tuf looks for the next root until one is missing; 404 is how it learns that.
            raise DownloadHTTPError(str(error), 404) from error


class TrustClient:
    """What one program trusts, in one folder. `root` may be None where root.json lies there."""

    def __init__(self, folder: Path, fleet: FleetId, fetch: Fetch, root: bytes | None) -> None:
        register()
        if root is not None and fleet_of(root) != fleet:
            raise Untrusted("root.json", wanted=f"fleet {fleet[:12]}", got=fleet_of(root)[:12])
        self._folder = folder
        self._fleet = fleet
        self._fetcher = TufFetcher(fetch)
        self._root = root
        self._updater: Updater | None = None
        self.unlisted: dict[str, str] = {}
        self.wanting: dict[str, str] = {}
        # Roles and products of rows that are another publisher's to list.
        self.ignored: set[tuple[str, str]] = set()
        self._owners = Owners(folder / "owners.json")
        folder.mkdir(parents=True, exist_ok=True)
        if root is not None:
            self._drop_damaged_root()

    def refresh(self) -> None:
        """Bring the top-level metadata up to date.

        Raises:
            Unavailable: it could not be fetched.
            Untrusted: it does not verify, or is past its dates.
        """
        self._updater = None
        try:
            updater = make_updater(self._folder, self._fetcher, self._root)
            updater.refresh()
        except DownloadError as error:
            raise Unavailable("metadata", why=str(error)[:200]) from error
        except (RepositoryError, ValueError) as error:
            raise Untrusted("metadata", wanted="valid signatures", got=str(error)[:200]) from error
        except OSError as error:
            raise Unavailable(str(self._folder), why=error.strerror or "disk") from error
        finally:
            sync_all(self._folder)
        self._updater = updater

    def authority(self, now: UnixTime) -> Authority:
        """The keys of the roles, from what is kept here; the newer of the two targets files.

        Fresh only while timestamp and snapshot are within their dates too, so never when they came
        by `refresh_authority`: no timestamp has vouched for those.

        Raises:
            Unavailable: nothing is kept yet.
            Untrusted, Malformed: what is kept is damaged.
        """
        root = self._root_kept()
        found = [name for name in ("targets.json", _DATELESS) if (self._folder / name).is_file()]
        if not found:
            raise Unavailable("keys", why="no signed metadata is kept here yet")
        kept: list[Authority] = []
        refusals: list[Refused] = []
        for name in found:
            # A turned root no longer vouches for an older file; the other one still serves.
            try:
                kept.append(self._authority_in(name, root, now))
            except Refused as error:
                refusals.append(error)
        if not kept:
            raise refusals[0]
        # On a tie the file that python-tuf took, dates and all, comes first.
        best = max(kept, key=lambda each: each.targets_version)
        is_fresh = best.is_fresh and self._is_vouched(now)
        return replace(best, is_fresh=is_fresh, snapshot_version=self._snapshot_version())

    def refresh_authority(self, version: int) -> None:
        """Take over the keys of a targets file of this version, whatever its dates.

        Raises:
            Stale: it is older than what is kept.
            Unavailable, Untrusted, Malformed: it cannot be had or does not verify.
        """
        root = self._root_kept()
        name = f"{version}.targets.json"
        try:
            data = self._fetcher.download_bytes(_BASE + name, METADATA_BYTES_MAX)
        except DownloadError as error:
            raise Unavailable(name, why=str(error)[:200]) from error
        offered = _targets(data, name)
        authority_of(root, offered, fleet=self._fleet, now=UnixTime(0))
        if offered.signed.version != version:
            raise Untrusted(name, wanted=f"version {version}", got=str(offered.signed.version))
        try:
            trusted = self.authority(UnixTime(0)).targets_version
        except FiredoorError:
            trusted = 0
        if version < trusted:
            raise Stale("targets", trusted=trusted, offered=version)
        durable_write(self._folder / _DATELESS, data)

    def download(self, path: str, folder: Path, base: str) -> Path:
        """One target, verified, in `folder`; not fetched again while the file there is right.

        Raises:
            Unavailable: signed metadata has no such target, or it could not be fetched.
            Untrusted: it does not verify.
        """
        assert self._updater is not None
        self._updater.target_dir = str(folder)
        try:
            target = self._updater.get_targetinfo(path)
            if target is None:
                raise Unavailable(path, why="no such target")
            found = self._updater.find_cached_target(target)
            return Path(found or self._updater.download_target(target, target_base_url=base))
        except DownloadError as error:
            raise Unavailable(path, why=str(error)[:200]) from error
        except (RepositoryError, ValueError) as error:
            raise Untrusted(path, wanted="valid metadata", got=str(error)[:200]) from error

    def timestamp_version(self) -> int:
        """The version of the timestamp that is trusted now."""
        return Metadata[Timestamp].from_bytes(self._kept("timestamp.json")).signed.version

    def role_file(self, role: str) -> bytes:
        """The file of a delegated role, verified when it was kept; Unavailable when it was not.

        The newest, be it past its date.
        """
        name = f"{quote(role, safe='')}.json"
        found: list[bytes] = []
        for each in (f"dateless/{name}", name):
            with suppress(Unavailable):
                found.append(self._kept(each))
        if not found:
            raise Unavailable(name, why="not kept here yet")
        return max(found, key=lambda data: _targets(data, role).signed.version)

    def top_file(self, role: str) -> bytes:
        """The file of a top-level role, verified when it was kept; Unavailable when it was not."""
        return self._kept(f"{role}.json")

    def releases(self) -> list[ReleaseEntry]:
        """Every release in signed metadata; `refresh` must have succeeded just before.

        A publisher whose list is past its date lists nothing; `unlisted` then says why, and what
        it listed before is not open to other publishers. Where a list cannot be had, or is not the
        one that the snapshot names, the one before it counts while it is within its date, and
        `wanting` says why: another source may have it.

        Raises:
            Unavailable, Malformed: what is kept here is damaged.
        """
        assert self._updater is not None
        targets = _targets(self._kept("targets.json"), "targets.json").signed
        # The delegations of now decide, not the files that lie here: a publisher whose role was
        # taken away still has one.
        roles = (targets.delegations.roles if targets.delegations is not None else None) or {}
        listed: dict[str, list[ReleaseEntry]] = {}
        products: list[tuple[str, set[str]]] = []
        self.unlisted, self.wanting = {}, {}
        for role in [role for name, role in roles.items() if is_publisher(name)]:
            try:
                listed[role.name] = self._releases_of(role)
            except _Settled as error:
                self.unlisted[role.name] = str(error)
            except FiredoorError as error:
                self.wanting[role.name] = str(error)
                listed[role.name] = self._releases_before(role, targets)
            found = listed.get(role.name)
            before = self._products_before(role.name) if found is None else ()
            products.append((role.name, {*before, *(each.product for each in found or ())}))
        owners = self._owners.settle(products, _grants(targets))
        sync_all(self._folder)
        entries = [each for role in listed for each in listed[role]]
        self.ignored = {
            (f"releases/{each.publisher}", each.product)
            for each in entries
            if owners[each.product] != f"releases/{each.publisher}"
        }
        return [each for each in entries if owners[each.product] == f"releases/{each.publisher}"]

    def kept_roots(self) -> dict[str, bytes]:
        """Every root that was verified here, by the name that consistent snapshots give it."""
        folder = self._folder / "root_history"
        paths = sorted(folder.glob("*.root.json")) if folder.is_dir() else []
        return {path.name: path.read_bytes() for path in paths}

    def kept_files(self) -> dict[str, bytes]:
        """Every metadata file that is trusted here, by the name that consistent snapshots give it.

        Raises:
            Unavailable, Malformed: nothing is kept, or it is damaged.
        """
        snapshot = self._kept("snapshot.json")
        files = self.kept_roots() | {"timestamp.json": self._kept("timestamp.json")}
        try:
            signed = Metadata[Snapshot].from_bytes(snapshot).signed
        except RepositoryError as error:
            raise Malformed("snapshot.json", wanted="metadata", got=str(error)[:200]) from error
        files[f"{signed.version}.snapshot.json"] = snapshot
        for name in signed.meta:
            role = name.removesuffix(".json")
            with suppress(FiredoorError):
                data = self.role_file(role)
                version = _targets(data, role).signed.version
                files[f"{version}.{quote(role, safe='')}.json"] = data
        return files

    def kept_releases(self) -> list[ReleaseEntry]:
        """Every release that was ever verified here, whatever the dates now: to be halted by.

        Raises:
            Unavailable, Malformed: nothing is kept, or it is damaged.
        """
        targets = _targets(self._kept("targets.json"), "targets.json").signed
        roles = (targets.delegations.roles if targets.delegations is not None else None) or {}
        found: list[ReleaseEntry] = []
        products: list[tuple[str, set[str]]] = []
        for role in [name for name in roles if is_publisher(name)]:
            with suppress(FiredoorError):
                kept = _targets(self._kept(f"{quote(role, safe='')}.json"), role)
                rows = entries_of(role, kept.signed)
                found += rows
                products.append((role, {each.product for each in rows}))
        owners = self._owners.settle(products, _grants(targets))
        return [each for each in found if owners[each.product] == f"releases/{each.publisher}"]

    def _releases_of(self, role: DelegatedRole) -> list[ReleaseEntry]:
        assert self._updater is not None
        own = own_path(role.name)
        if not (role.is_delegated_path(_ANY_RELEASE) and role.is_delegated_path(own)):
            wanted = f"the paths releases/*/* and {own}"
            raise _Settled(role.name[:80], wanted=wanted, got="others")
        try:
            # Walks the delegations, and so verifies and keeps the role's file.
            self._updater.get_targetinfo(own)
        except DownloadError as error:
            raise Unavailable(role.name, why=str(error)[:200]) from error
        except ExpiredMetadataError as error:
            with suppress(FiredoorError):
                self._keep_dateless(role.name)
            raise _Settled(role.name, wanted="a date to come", got=str(error)[:200]) from error
        except (RepositoryError, ValueError, RecursionError) as error:
            wanted = "valid signatures"
            raise Untrusted(role.name, wanted=wanted, got=str(error)[:200]) from error
        except OSError as error:
            raise Unavailable(str(self._folder), why=error.strerror or "disk") from error
        kept = _targets(self._kept(f"{quote(role.name, safe='')}.json"), role.name)
        return entries_of(role.name, kept.signed)

    def _releases_before(self, role: DelegatedRole, targets: Targets) -> list[ReleaseEntry]:
        """What the list kept here names, if its keys still count and it is within its date."""
        with suppress(FiredoorError, RepositoryError, ValueError):
            kept = _targets(self._kept(f"{quote(role.name, safe='')}.json"), role.name)
            targets.verify_delegate(role.name, kept.signed_bytes, kept.signatures)
            if not kept.signed.is_expired():
                return entries_of(role.name, kept.signed)
        return []

    def _keep_dateless(self, role: str) -> None:
        """Keep a list that is past its date, for its publisher to go on from; it lists nothing."""
        snapshot = Metadata[Snapshot].from_bytes(self._kept("snapshot.json")).signed
        version = snapshot.meta[f"{role}.json"].version
        name = f"{version}.{quote(role, safe='')}.json"
        data = self._fetcher.download_bytes(_BASE + name, METADATA_BYTES_MAX)
        offered, targets = _targets(data, name), _targets(self._kept("targets.json"), "targets")
        targets.signed.verify_delegate(role, offered.signed_bytes, offered.signatures)
        if offered.signed.version == version:
            (self._folder / "dateless").mkdir(exist_ok=True)
            durable_write(self._folder / "dateless" / f"{quote(role, safe='')}.json", data)

    def _products_before(self, role: str) -> set[str]:
        """The products of a list that cannot be believed now; they stay its publisher's."""
        try:
            kept = _targets(self._kept(f"{quote(role, safe='')}.json"), role)
            return {each.product for each in entries_of(role, kept.signed)}
        except FiredoorError:
            return set()

    def _authority_in(self, name: str, root: Metadata[Root], now: UnixTime) -> Authority:
        targets = _targets(self._kept(name), name)
        authority = authority_of(root, targets, fleet=self._fleet, now=now)
        return replace(authority, is_fresh=False) if name == _DATELESS else authority

    def _is_vouched(self, now: UnixTime) -> bool:
        try:
            vouchers: list[Metadata[Any]] = [
                Metadata[Any].from_bytes(self._kept(f"{name}.json"))
                for name in ("timestamp", "snapshot")
            ]
        except (FiredoorError, RepositoryError):
            return False
        return all(now < voucher.signed.expires.timestamp() for voucher in vouchers)

    def _snapshot_version(self) -> int:
        try:
            return Metadata[Snapshot].from_bytes(self._kept("snapshot.json")).signed.version
        except (FiredoorError, RepositoryError):
            return 0

    def _drop_damaged_root(self) -> None:
        # Power went while it was written, or the disk rots: begin from the first root again.
        try:
            self._root_kept()
        except Malformed:
            (self._folder / "root.json").unlink()
        except Unavailable:
            return

    def _root_kept(self) -> Metadata[Root]:
        try:
            return Metadata[Root].from_bytes(self._kept("root.json"))
        except RepositoryError as error:
            raise Malformed("root.json", wanted="metadata", got=str(error)[:200]) from error

    def _kept(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise Unavailable(name, why="not kept here yet") from error


def make_updater(folder: Path, fetcher: FetcherInterface, root: bytes | None) -> Updater:
    """An `Updater` on this folder; `root` is needed on first use only."""
    config = UpdaterConfig(
        root_max_length=METADATA_BYTES_MAX,
        timestamp_max_length=METADATA_BYTES_MAX,
        snapshot_max_length=METADATA_BYTES_MAX,
        targets_max_length=METADATA_BYTES_MAX,
        max_delegations=_DELEGATIONS_MAX,
    )
    first = None if (folder / "root.json").exists() else root
    return Updater(str(folder), _BASE, fetcher=fetcher, config=config, bootstrap=first)


def sync_all(folder: Path) -> None:
    """Make every file of a folder, of python-tuf's root history in it, and both folders durable."""
    for each in (folder / "root_history", folder):
        if not each.is_dir():
            continue
        if sys.platform != "win32":
            for path in each.iterdir():
                if path.is_file():
                    _sync_file(path)
        sync_folder(each)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fleet_of(root: bytes) -> FleetId:
    """The id of the fleet whose version 1 root.json this is.

    Raises:
        Malformed: it is no version 1 root.
    """
    try:
        version = json.loads(root)["signed"]["version"]
    # Deep brackets make json raise RecursionError.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("root.json", wanted="a TUF root", got="something else") from error
    if version != 1:
        raise Malformed("root.json", wanted="version 1", got=str(version))
    return FleetId(sha256(root).hexdigest()[:32])


def _targets(data: bytes, what: str) -> Metadata[Targets]:
    try:
        metadata = Metadata[Targets].from_bytes(data)
    except RepositoryError as error:
        raise Malformed(what, wanted="metadata", got=str(error)[:200]) from error
    # python-tuf returns whatever type the bytes name.
    if not isinstance(metadata.signed, Targets):
        raise Malformed(what, wanted="metadata of type targets", got="another type")
    return metadata


def _grants(targets: Targets) -> Mapping[str, object]:
    """Root's word on whose products are whose; empty where it says nothing."""
    grants = targets.unrecognized_fields.get(GRANTS)
    return grants if isinstance(grants, dict) else {}

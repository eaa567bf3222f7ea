"""The origin's repository of signed metadata, and what may be added to it.

* A publisher's metadata is taken as python-tuf's client would take it: signed by the delegated
  role's threshold, exactly the next version, within its dates.
* It adds one release and removes or changes none; path, manifest and facts agree.
* Files are written so that a crash between any two leaves the old repository or the new:
  timestamp.json, the only name that is written twice, comes last.

It holds the online keys of snapshot and timestamp only; it cannot make a release.
Source: TUF specification 5.4 to 5.6.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from firedoor.errors import Malformed, Stale, TooLarge, Unavailable, Untrusted
from firedoor.pieces.manifest import Manifest, decode_manifest, facts_of
from firedoor.pieces.manifest_reading import LARGE, Bound
from firedoor.runtime.files import durable_write
from firedoor.runtime.metadata.release_entries import superseded
from firedoor.trust.keys import NaclSigner
from firedoor.trust.repository import meta_of
from firedoor.units import UnixTime
from mirror.origin.release_lists import check_bytes, check_list, check_order

# A frozen mirror is found out after a day at most (expiry of 24 h or less).
TIMESTAMP_SPAN_S = 24 * 3600

# The snapshot changes with each release anyway; a week bounds a stolen old one.
SNAPSHOT_SPAN_S = 7 * 24 * 3600

# Below half its life a signature is made anew: an origin may be down for half the span.
_RENEW_SHARE = 2

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Repository:
    """The signed metadata that timestamp.json leads to at one moment."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]


class MetadataFolder:
    """Metadata on the origin's disk, and the two online keys that sign its freshness."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._snapshot: NaclSigner | None = None
        self._timestamp: NaclSigner | None = None

    def sign_with(self, *, snapshot: NaclSigner | None, timestamp: NaclSigner | None) -> None:
        """Sign freshness by these keys from now on; None: that one is lost, and nothing is."""
        self._snapshot = snapshot
        self._timestamp = timestamp

    def read(self, name: str) -> bytes:
        """One metadata file, by the name that TUF gives it, quoted or not.

        Raises:
            Unavailable: there is none.
        """
        name = name.replace("/", "%2F")
        try:
            if name.startswith(".") or "\\" in name or "\0" in name:
                raise FileNotFoundError(name)
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise Unavailable(name, why="the origin has no such metadata") from error

    def load(self) -> Repository:
        """What timestamp.json leads to. It is our own disk: signatures are not checked again.

        Raises:
            Malformed, Unavailable: the folder is damaged.
        """
        number = 1
        while (self._folder / f"{number + 1}.root.json").exists():
            number += 1
        timestamp = self._parse("timestamp.json", Timestamp)
        snapshot = self._parse(f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
        version = snapshot.signed.meta["targets.json"].version
        targets = self._parse(f"{version}.targets.json", Targets)
        return Repository(self._parse(f"{number}.root.json", Root), timestamp, snapshot, targets)

    def current(self, repository: Repository, role: str) -> Metadata[Targets]:
        """The metadata of a delegated role in `repository`.

        Raises:
            Malformed, Unavailable: the folder is damaged.
            Untrusted: the snapshot has no such role.
        """
        known = repository.snapshot.signed.meta.get(f"{role}.json")
        if known is None:
            raise Untrusted("release's role", wanted="one of the snapshot", got=repr(role[:64]))
        return self._parse(file_name(known.version, role), Targets)

    def add(self, role: str, version: int, data: bytes, now: UnixTime) -> None:
        """Make `data` the metadata of `role`: its file, then a snapshot, then the timestamp."""
        durable_write(self._folder / file_name(version, role), data)
        self.point_to({role: version}, now)

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write files that nothing leads to yet, but for a root, which clients find by its name."""
        for name, data in files.items():
            durable_write(self._folder / name, data)

    def point_to(self, versions: Mapping[str, int], now: UnixTime) -> None:
        """Let snapshot and timestamp lead to these versions of targets and lists."""
        repository = self.load()
        for role, version in versions.items():
            repository.snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        self._write_snapshot(repository.snapshot, repository.timestamp, now)

    def refresh(self, now: UnixTime) -> bool:
        """Sign anew what is past half its life. Whether anything was."""
        repository = self.load()
        if _is_old(repository.snapshot.signed.expires, SNAPSHOT_SPAN_S, now):
            self._write_snapshot(repository.snapshot, repository.timestamp, now)
            return True
        if _is_old(repository.timestamp.signed.expires, TIMESTAMP_SPAN_S, now):
            self._write_timestamp(repository.timestamp, now)
            return True
        return False

    def _write_snapshot(
        self, snapshot: Metadata[Snapshot], timestamp: Metadata[Timestamp], now: UnixTime
    ) -> None:
        for name, meta in snapshot.signed.meta.items():
            # A snapshot of 0.1 names versions alone.
            if meta.length is None:
                data = self.read(file_name(meta.version, name.removesuffix(".json")))
                snapshot.signed.meta[name] = meta_of(meta.version, data)
        snapshot.signed.version += 1
        snapshot.signed.expires = _moment(now + SNAPSHOT_SPAN_S)
        data = _sign(snapshot, self._snapshot)
        durable_write(self._folder / f"{snapshot.signed.version}.snapshot.json", data)
        timestamp.signed.snapshot_meta = meta_of(snapshot.signed.version, data)
        self._write_timestamp(timestamp, now)
        self._prune(snapshot.signed)

    def _prune(self, snapshot: Snapshot) -> None:
        """Remove what only older snapshots name; who is at one reads it for a while yet."""
        newest = {name.removesuffix(".json"): each.version for name, each in snapshot.meta.items()}
        for name in superseded(newest | {"snapshot": snapshot.version}, self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def _write_timestamp(self, timestamp: Metadata[Timestamp], now: UnixTime) -> None:
        timestamp.signed.version += 1
        timestamp.signed.expires = _moment(now + TIMESTAMP_SPAN_S)
        durable_write(self._folder / "timestamp.json", _sign(timestamp, self._timestamp))

    def _parse(self, name: str, kind: type[S]) -> Metadata[S]:
        return parse(self.read(name), kind, what=name)


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked addition: which release it is, and what its manifest says."""

    path: str
    version: int
    digest: str
    manifest: Manifest


def check_offer(
    repository: Repository,
    old: Metadata[Targets],
    *,
    role: str,
    data: bytes,
    manifest: bytes,
    now: UnixTime,
    bound: Bound = LARGE,
) -> Offer:
    """The one release that `data`, the next metadata of `role`, adds to `old`.

    Raises:
        TooLarge: above the limit of metadata or manifests.
        Untrusted: not signed by the role's threshold, or outside its paths, or not this manifest.
        Stale: not the next version, or past its dates.
        Malformed: it changes more than one release, or facts and manifest disagree.
    """
    check_bytes(data)
    if len(manifest) > bound.size:
        raise TooLarge("manifest", limit=bound.size, size=len(manifest))
    delegated = _delegation(repository.targets, role)
    new = parse(data, Targets, what="metadata")
    try:
        repository.targets.signed.verify_delegate(role, new.signed_bytes, new.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        wanted = f"{delegated.threshold} signature(s) of {role}"
        raise Untrusted("metadata", wanted=wanted, got=str(error)[:120]) from error
    if new.signed.version != old.signed.version + 1:
        raise Stale(role, trusted=old.signed.version + 1, offered=new.signed.version)
    if new.signed.is_expired(dt.datetime.fromtimestamp(now, dt.UTC)):
        raise Untrusted("metadata", wanted="a date to come", got=str(new.signed.expires))
    path, target = _added(old.signed, new.signed)
    if not delegated.is_delegated_path(path):
        raise Untrusted("release's path", wanted=f"one of {role}", got=repr(path[:160]))
    offer = _match(path, target, manifest, new.signed.version, bound)
    check_list(role, new, now)
    check_order(offer.manifest, old.signed)
    return offer


def parse(data: bytes, kind: type[S], *, what: str) -> Metadata[S]:
    """`data` as metadata of one type; no signature is checked.

    Raises:
        Malformed: it is something else.
    """
    try:
        read = Metadata[S].from_bytes(data)
    except (RepositoryError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(what, wanted="TUF metadata", got=str(error)[:120]) from error
    if not isinstance(read.signed, kind):
        raise Malformed(what, wanted=f"type {kind.type}", got=str(read.signed.type))
    return read


def _delegation(targets: Metadata[Targets], role: str) -> DelegatedRole:
    delegations = targets.signed.delegations
    roles: Mapping[str, Any] = (delegations.roles if delegations else None) or {}
    found = roles.get(role)
    if found is None or not role.startswith("releases/"):
        raise Untrusted("release's role", wanted="a delegated releases/ role", got=repr(role[:64]))
    return cast("DelegatedRole", found)


def _added(old: Targets, new: Targets) -> tuple[str, TargetFile]:
    if new.delegations is not None:
        raise Malformed("metadata", wanted="releases only", got="delegations")
    for path, target in old.targets.items():
        offered = new.targets.get(path)
        if offered is None:
            raise Malformed("metadata", wanted=f"{path} as it is", got="none")
        if offered.to_dict() != target.to_dict():
            raise Malformed("metadata", wanted=f"{path} as it is", got="another manifest")
    added = sorted(set(new.targets) - set(old.targets))
    if len(added) != 1:
        raise Malformed("metadata", wanted="one new release", got=str(len(added)))
    return added[0], new.targets[added[0]]


def _match(path: str, target: TargetFile, manifest: bytes, version: int, bound: Bound) -> Offer:
    digest = sha256(manifest).hexdigest()
    if target.hashes.get("sha256") != digest or target.length != len(manifest):
        wanted = str(target.hashes.get("sha256"))[:12]
        raise Untrusted("manifest", wanted=wanted, got=digest[:12])
    read = decode_manifest(manifest, bound)
    if read.product == "everything":
        raise Malformed("product", wanted="a name that is no scope", got="everything")
    if path != f"releases/{read.product}/{read.version}":
        wanted = f"releases/{read.product}/{read.version}"
        raise Malformed("release's path", wanted=wanted, got=repr(path[:160]))
    facts = asdict(facts_of(read))
    custom = target.unrecognized_fields.get("custom")
    if custom != facts:
        raise Malformed("release's facts", wanted=str(facts), got=str(custom)[:160])
    return Offer(path, version, digest, read)


def file_name(version: int, role: str) -> str:
    """The file of one version of a role."""
    return f"{version}.{quote(role, safe='')}.json"


def _sign(metadata: Metadata[Any], signer: NaclSigner | None) -> bytes:
    if signer is None:
        role = str(metadata.signed.type)
        why = f"the key is lost here; firedoor keys rotate {role} names another"
        raise Unavailable(f"signing {role}", why=why)
    metadata.sign(signer)
    return metadata.to_bytes()


def _is_old(expires: dt.datetime, span_s: int, now: UnixTime) -> bool:
    return expires.timestamp() - now < span_s / _RENEW_SHARE


def _moment(when: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(when, dt.UTC).replace(microsecond=0)

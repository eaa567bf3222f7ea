"""A rotation of keys as the origin takes it: a new root, new targets, lists signed anew.

* Believed as an endpoint will believe it: root by the old root's keys and its own, targets by
  root's, each exactly the next version and within its dates; so nothing is published that a fleet
  could not follow.
* A rotation adds or removes no role of the brake and no release. A publisher that it adds comes
  with an empty list; one that it removes lists nothing any more.
* Every publisher's list must still be signed by the keys that the new targets name.

Pure; origin.py keeps and applies what was checked here. Source: TUF specification 5.3.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from firedoor.errors import Malformed, Stale, Untrusted
from firedoor.limits import METADATA_BYTES_MAX
from firedoor.trust.repository import is_publisher
from firedoor.units import UnixTime
from mirror.origin.repository import Repository, file_name, parse

# Root, targets and as many lists of releases as a fleet may have publishers with large ones.
ROTATION_BYTES_MAX = 16 * METADATA_BYTES_MAX

File = Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Rotation:
    """What an operator hands in. An empty file stays as it is; `lists`: publishers', by role."""

    root: File = b""
    targets: File = b""
    lists: dict[str, File] | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """A rotation that an endpoint will follow. `lists` has every publisher's, new or not."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    lists: Mapping[str, Metadata[Targets]]


def check_rotation(
    repository: Repository,
    lists: Mapping[str, Metadata[Targets]],
    change: Rotation,
    now: UnixTime,
) -> Checked:
    """The repository after `change`; `lists`: every publisher's list before it.

    Raises:
        Malformed: it changes more than keys, or is no metadata.
        Stale: a file is not the next version, or is past its dates.
        Untrusted: a file is not signed as endpoints will ask.
    """
    root, targets = repository.root, repository.targets
    if not (change.root or change.targets):
        raise Malformed("rotation", wanted="keys that root has turned", got="none")
    if change.root:
        root = _next_root(root, parse(change.root, Root, what="root"), now)
    if change.targets:
        targets = _next_targets(targets, parse(change.targets, Targets, what="targets"), now)
    _verify(root.signed, "targets", targets)
    offered, named = change.lists or {}, publishers(targets.signed)
    if set(offered) - set(named):
        raise Malformed("lists", wanted="publishers of this fleet", got=str(sorted(offered))[:120])
    # Of a publisher that was removed the snapshot still names the last list.
    known = {name: meta.version for name, meta in repository.snapshot.signed.meta.items()}
    fresh = {
        role: _next_list(
            role,
            (known.get(f"{role}.json", 0), lists[role].signed.targets if role in lists else {}),
            parse(data, Targets, what=role),
            now,
        )
        for role, data in offered.items()
    }
    after = {role: metadata for role, metadata in lists.items() if role in named} | fresh
    if missing := sorted(set(named) - set(after)):
        raise Malformed("lists", wanted=f"one of {missing[0]}", got="none")
    for role, metadata in after.items():
        _verify(targets.signed, role, metadata)
    return Checked(root, targets, after)


def _next_root(old: Metadata[Root], new: Metadata[Root], now: UnixTime) -> Metadata[Root]:
    _check_next("root", old.signed.version, new.signed, now)
    if set(new.signed.roles) != set(old.signed.roles) or not new.signed.consistent_snapshot:
        raise Malformed("root", wanted="the same roles and consistent snapshots", got="others")
    for judge in (old.signed, new.signed):
        _verify(judge, "root", new)
    return new


def _next_targets(
    old: Metadata[Targets], new: Metadata[Targets], now: UnixTime
) -> Metadata[Targets]:
    _check_next("targets", old.signed.version, new.signed, now)
    brake = [
        [name for name in _role_names(each.signed) if not is_publisher(name)] for each in (old, new)
    ]
    if brake[0] != brake[1] or new.signed.targets or not publishers(new.signed):
        wanted = "the same roles of the brake, and at least one publisher"
        raise Malformed("targets", wanted=wanted, got="others")
    return new


def _next_list(
    role: str,
    old: tuple[int, Mapping[str, TargetFile]],
    new: Metadata[Targets],
    now: UnixTime,
) -> Metadata[Targets]:
    """The next list of a publisher; `old`: the version and the rows of the one before it."""
    version, rows = old
    _check_next(role, version, new.signed, now)
    before = {path: target.to_dict() for path, target in rows.items()}
    after = {path: target.to_dict() for path, target in new.signed.targets.items()}
    if before != after or new.signed.delegations is not None:
        raise Malformed(role, wanted="the same releases", got="others")
    return new


def _check_next(what: str, old: int, new: Root | Targets, now: UnixTime) -> None:
    if new.version != old + 1:
        raise Stale(what, trusted=old + 1, offered=new.version)
    if new.is_expired(dt.datetime.fromtimestamp(now, dt.UTC)):
        raise Untrusted(what, wanted="a date to come", got=str(new.expires))


def _verify(judge: Root | Targets, role: str, new: Metadata[Root] | Metadata[Targets]) -> None:
    try:
        judge.verify_delegate(role, new.signed_bytes, new.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise Untrusted(role, wanted="enough signatures", got=str(error)[:120]) from error


def _role_names(targets: Targets) -> list[str]:
    roles = targets.delegations.roles if targets.delegations is not None else None
    return sorted(roles or {})


def _brake_names(targets: Targets) -> list[str]:
    return [name for name in _role_names(targets) if not is_publisher(name)]


def files_of(change: Rotation) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files of a checked rotation by name, root last, and the versions that lead to them."""
    files: dict[str, bytes] = {}
    versions: dict[str, int] = {}
    given = dict(change.lists or {}) | ({"targets": change.targets} if change.targets else {})
    for role, data in given.items():
        versions[role] = parse(data, Targets, what=role).signed.version
        files[file_name(versions[role], role)] = data
    if change.root:
        version = parse(change.root, Root, what="root").signed.version
        files[file_name(version, "root")] = change.root
    return files, versions


def online_keyids(root: Metadata[Root], targets: Metadata[Targets]) -> dict[str, list[str]]:
    """The key ids of every role that the origin signs with."""
    roles = targets.signed.delegations.roles if targets.signed.delegations is not None else None
    beacon = (roles or {}).get("beacon")
    return {
        "snapshot": root.signed.roles["snapshot"].keyids,
        "timestamp": root.signed.roles["timestamp"].keyids,
        "beacon": beacon.keyids if beacon is not None else [],
    }


def publishers(targets: Targets) -> list[str]:
    """The roles that sign releases, in order."""
    return [role for role in _role_names(targets) if is_publisher(role)]

"""The signed metadata of a fleet: made once at `init`, grown at each publish, turned at rotation.

Top-level targets has root's keys and threshold, stays offline, and holds nothing but delegations;
so whoever signs releases cannot touch the brake (halt/README.md, Authority). Pure: dates are given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from firedoor.errors import Malformed, Untrusted
from firedoor.trust.keys import SURVIVORS, NaclSigner, key_of

# The brake's roles sign records, not targets; a pattern of their own never meets a release.
BRAKE_ROLES = ("halt", "resume", "promote", "beacon")

GRANTS = "x-firedoor-products"
"""The field of the signed targets that says whose a product is; version 0.1 passes it over."""

PUBLISHER = "releases/"
"""What the name of each publisher's role begins with."""
_RELEASE_PATHS = "releases/*/*"


@dataclass(frozen=True, slots=True)
class RoleSeeds:
    """The keys of one role at `init`, and how many of them must sign."""

    seeds: tuple[bytes, ...]
    threshold: int

    @property
    def keys(self) -> list[Key]:
        """The public keys."""
        return [key_of(seed) for seed in self.seeds]


@dataclass(frozen=True, slots=True)
class RolePublic:
    """The public keys of one role whose seeds are elsewhere, and how many of them must sign."""

    keys: tuple[Key, ...]
    threshold: int


def is_publisher(role: str) -> bool:
    """Whether this role signs releases."""
    return role.startswith(PUBLISHER)


def own_path(role: str) -> str:
    """The target path that this publisher's role is delegated and no other is.

    A client that asks for it walks to that role's file alone: one publisher's expired list must
    not hide the releases of all the others.
    """
    return f"publishers/{role.removeprefix(PUBLISHER)}"


def new_root(
    root: RoleSeeds, *, snapshot: bytes, timestamp: bytes, expires: datetime
) -> Metadata[Root]:
    """Version 1 of root, signed."""
    roles = {
        "root": _role(root),
        "targets": _role(root),
        "snapshot": Role([key_of(snapshot).keyid], 1),
        "timestamp": Role([key_of(timestamp).keyid], 1),
    }
    keys = {key.keyid: key for key in [*root.keys, key_of(snapshot), key_of(timestamp)]}
    signed = Root(version=1, expires=expires, keys=keys, roles=roles, consistent_snapshot=True)
    return signed_by(Metadata(signed), root.seeds)


def new_targets(
    root: RoleSeeds, roles: Mapping[str, RoleSeeds], expires: datetime
) -> Metadata[Targets]:
    """Version 1 of the top-level targets: delegations only, signed by root's keys.

    `roles`: `releases/<publisher>` and each of BRAKE_ROLES.
    """
    keys = {key.keyid: key for seeds in roles.values() for key in seeds.keys}
    delegated = {name: _delegated(name, seeds) for name, seeds in roles.items()}
    signed = Targets(
        version=1, expires=expires, targets={}, delegations=Delegations(keys, delegated)
    )
    return signed_by(Metadata(signed), root.seeds)


def new_releases(seeds: RoleSeeds, expires: datetime, version: int = 1) -> Metadata[Targets]:
    """A publisher's empty list, signed; of a name that was used before its next version."""
    return signed_by(Metadata(Targets(version=version, expires=expires)), seeds.seeds)


def new_snapshot(files: Mapping[str, bytes], seed: bytes, expires: datetime) -> Metadata[Snapshot]:
    """Version 1 of the snapshot over version 1 of these roles, targets among them, signed."""
    meta = {f"{role}.json": meta_of(1, data) for role, data in files.items()}
    return signed_by(Metadata(Snapshot(version=1, expires=expires, meta=meta)), [seed])


def meta_of(version: int, data: bytes) -> MetaFile:
    """What a snapshot says of a file: nobody on the way can hand on another form of the same."""
    return MetaFile(version, len(data), {"sha256": sha256(data).hexdigest()})


def new_timestamp(snapshot: bytes, seed: bytes, expires: datetime) -> Metadata[Timestamp]:
    """Version 1 of the timestamp over a snapshot's bytes, signed."""
    meta = meta_of(1, snapshot)
    return signed_by(Metadata(Timestamp(version=1, expires=expires, snapshot_meta=meta)), [seed])


def add_release(
    releases: Metadata[Targets],
    path: str,
    manifest: bytes,
    *,
    custom: dict[str, Any],
    expires: datetime,
) -> None:
    """Add one release to a publisher's list, unsigned and one version up.

    Raises:
        Malformed: that release exists.
    """
    if path in releases.signed.targets:
        raise Malformed(path, wanted="a new version", got="one that is published")
    hashes = {"sha256": sha256(manifest).hexdigest()}
    target = TargetFile(len(manifest), hashes, path, {"custom": custom})
    releases.signed.targets[path] = target
    releases.signed.version += 1
    releases.signed.expires = expires
    releases.signatures.clear()


def rotate_root(
    root: Metadata[Root],
    role: str,
    new: RoleSeeds | RolePublic,
    *,
    signers: Sequence[bytes],
    expires: datetime,
) -> Metadata[Root]:
    """The next root, in which a top-level role has other keys.

    `signers`: enough of the seeds of the root before; new root keys come as seeds and sign as well.
    Root's keys are also those of targets, which must then be signed anew.

    Raises:
        Malformed: no such role, or its threshold is below 1 or above its distinct keys.
        Untrusted: the old root, or the new one, lacks signatures.
    """
    if role not in {"root", "snapshot", "timestamp"}:
        raise Malformed("role", wanted="root, snapshot or timestamp", got=repr(role[:80]))
    _check(role, new)
    signed = Root.from_dict(root.signed.to_dict())
    for name in ("root", "targets") if role == "root" else (role,):
        signed.roles[name] = _role(new)
    held = signed.keys | {key.keyid: key for key in new.keys}
    used = {keyid for each in signed.roles.values() for keyid in each.keyids}
    signed.keys = {keyid: key for keyid, key in held.items() if keyid in used}
    signed.version += 1
    signed.expires = expires
    own = new.seeds if role == "root" and isinstance(new, RoleSeeds) else ()
    seeds = dict.fromkeys([*signers, *own])
    result: Metadata[Root] = signed_by(Metadata(signed), tuple(seeds))
    try:
        root.signed.verify_delegate("root", result.signed_bytes, result.signatures)
        signed.verify_delegate("root", result.signed_bytes, result.signatures)
    except UnsignedMetadataError as error:
        raise Untrusted("root", wanted="old and new signatures", got=str(error)) from error
    return result


def rotate_delegation(
    targets: Metadata[Targets],
    role: str,
    new: RoleSeeds | RolePublic,
    *,
    signers: Sequence[bytes],
    expires: datetime,
    survivors: Sequence[str] | None = None,
) -> Metadata[Targets]:
    """The next top-level targets, in which a delegated role has other keys; signed by `signers`.

    A publisher's own file must then be signed anew. `survivors`: compact the orders of keys that
    count no more to these; the version after it compacts nothing again.

    Raises:
        Malformed: no such role, or its threshold is below 1 or above its distinct keys.
    """
    _check(role, new)
    signed = Targets.from_dict(targets.signed.to_dict())
    delegations = signed.delegations
    if delegations is None or delegations.roles is None or role not in delegations.roles:
        raise Malformed("role", wanted="a delegated role", got=repr(role[:80]))
    delegations.roles[role].keyids = [key.keyid for key in new.keys]
    delegations.roles[role].threshold = new.threshold
    held = delegations.keys | {key.keyid: key for key in new.keys}
    used = {keyid for each in delegations.roles.values() for keyid in each.keyids}
    delegations.keys = {keyid: key for keyid, key in held.items() if keyid in used}
    signed.unrecognized_fields.pop(SURVIVORS, None)
    if survivors is not None:
        signed.unrecognized_fields[SURVIVORS] = {"role": role, "ids": list(survivors)}
    signed.version += 1
    signed.expires = expires
    result: Metadata[Targets] = signed_by(Metadata(signed), signers)
    return result


def with_publisher(
    targets: Metadata[Targets],
    role: str,
    new: RoleSeeds,
    *,
    signers: Sequence[bytes],
    expires: datetime,
) -> Metadata[Targets]:
    """The next targets, with one more publisher, the last in order; signed by `signers`.

    Raises:
        Malformed: that role is there, or its threshold is above its distinct keys.
    """
    _check(role, new)

    def add(delegations: Delegations, roles: dict[str, DelegatedRole]) -> None:
        if role in roles:
            raise Malformed("publisher", wanted="a new name", got=repr(role[:80]))
        delegations.keys |= {key.keyid: key for key in new.keys}
        roles[role] = _delegated(role, new)

    return _changed(targets, add, signers, expires)


def without_publisher(
    targets: Metadata[Targets], role: str, *, signers: Sequence[bytes], expires: datetime
) -> Metadata[Targets]:
    """The next targets, in which this publisher signs no more; signed by `signers`.

    Raises:
        Malformed: there is no such publisher, or no other.
    """

    def remove(delegations: Delegations, roles: dict[str, DelegatedRole]) -> None:
        known = [name for name in roles if is_publisher(name)]
        if role not in known or len(known) == 1:
            raise Malformed(
                "publisher", wanted=f"one of several: {', '.join(known)}", got=role[:80]
            )
        del roles[role]
        used = {keyid for each in roles.values() for keyid in each.keyids}
        delegations.keys = {keyid: key for keyid, key in delegations.keys.items() if keyid in used}

    return _changed(targets, remove, signers, expires)


def with_grants(
    targets: Metadata[Targets],
    grants: Mapping[str, str],
    *,
    signers: Sequence[bytes],
    expires: datetime,
) -> Metadata[Targets]:
    """The next targets, in which these products are these publishers' too; signed by `signers`."""
    held = targets.signed.unrecognized_fields.get(GRANTS)
    fresh = (dict(held) if isinstance(held, dict) else {}) | dict(grants)
    return _changed(targets, lambda _, __: None, signers, expires, {GRANTS: fresh})


def _changed(
    targets: Metadata[Targets],
    change: Callable[[Delegations, dict[str, DelegatedRole]], None],
    signers: Sequence[bytes],
    expires: datetime,
    fields: Mapping[str, object] = MappingProxyType({}),
) -> Metadata[Targets]:
    signed = Targets.from_dict(targets.signed.to_dict())
    delegations = signed.delegations
    if delegations is None or delegations.roles is None:
        raise Malformed("targets", wanted="delegations", got="none")
    change(delegations, delegations.roles)
    signed.unrecognized_fields.update(fields)
    signed.unrecognized_fields.pop(SURVIVORS, None)
    signed.version += 1
    signed.expires = expires
    result: Metadata[Targets] = signed_by(Metadata(signed), signers)
    return result


def signed_anew(
    metadata: Metadata[Targets], seeds: Sequence[bytes], expires: datetime
) -> Metadata[Targets]:
    """The next version of a targets or list file with the same content, signed by these seeds."""
    signed = Targets.from_dict(metadata.signed.to_dict())
    signed.version += 1
    signed.expires = expires
    result: Metadata[Targets] = signed_by(Metadata(signed), seeds)
    return result


def signed_by(metadata: Metadata[Any], seeds: Sequence[bytes]) -> Metadata[Any]:
    """`metadata`, signed with each seed."""
    for seed in seeds:
        metadata.sign(NaclSigner(seed), append=True)
    return metadata


def _check(role: str, new: RoleSeeds | RolePublic) -> None:
    count = len({key.keyid for key in new.keys})
    if count != len(new.keys) or not 1 <= new.threshold <= count:
        wanted = "distinct keys and a threshold of 1 to their count"
        raise Malformed(f"role {role[:80]}", wanted=wanted, got=f"{new.threshold} of {count}")


def _role(new: RoleSeeds | RolePublic) -> Role:
    return Role([key.keyid for key in new.keys], new.threshold)


def _delegated(name: str, seeds: RoleSeeds) -> DelegatedRole:
    keyids = [key.keyid for key in seeds.keys]
    paths = [_RELEASE_PATHS, own_path(name)] if is_publisher(name) else [f"{name}/*"]
    return DelegatedRole(name, keyids, seeds.threshold, terminating=False, paths=paths)

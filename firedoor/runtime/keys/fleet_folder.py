"""The folder that `firedoor init` makes: the fleet's keys, and what its origin needs online.

    root.json  fleet.json
    keys/      every offline key file: root, publishers, halt, resume, promote, operator
    origin/    online: ca, snapshot, timestamp, beacon, identity, metadata/

All of it is written beside the wanted place and renamed at the end: a failed init leaves nothing.
"""

import datetime
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from firedoor.errors import FiredoorError, Malformed, Unavailable
from firedoor.identity import FleetId, Role
from firedoor.limits import SIGNATURES_MAX
from firedoor.runtime.files import PUBLIC_MODE, durable_write, sync_folder
from firedoor.runtime.folders import read_named
from firedoor.runtime.keys.authority import OPERATOR_DAYS, issue, make_authority, make_request
from firedoor.runtime.keys.key_files import KeyFile, write_key_file
from firedoor.runtime.keys.operator_proof import write_operators
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.trust.keys import key_of, register
from firedoor.trust.repository import (
    BRAKE_ROLES,
    RoleSeeds,
    new_releases,
    new_root,
    new_snapshot,
    new_targets,
    new_timestamp,
)
from firedoor.units import UnixTime
from firedoor.wire.json_text import json_map

_DAY_S = 86400

# Offline metadata lives long, for signing it anew takes people and a safe; online ones do not.
OFFLINE_DAYS = 3 * 365
RELEASES_DAYS = 365
_SNAPSHOT_DAYS = 7
_TIMESTAMP_DAYS = 1

_FACTS_BYTES_MAX = 1 << 16

ONLINE = ("snapshot", "timestamp", "beacon", "ca")


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What `init` was asked for. `counts`: role to (keys, threshold)."""

    name: str
    origin: str
    mdns: tuple[str, ...]
    counts: Mapping[str, tuple[int, int]]
    passphrase: str | None


def make_fleet(folder: Path, plan: FleetPlan, now: UnixTime) -> FleetId:
    """Make a fleet in `folder`, which must not exist.

    Raises:
        Malformed: it exists, or a threshold is below 1 or above its keys.
        Unavailable: the disk refuses.
    """
    register()
    if folder.exists():
        raise Malformed(str(folder), wanted="a folder that does not exist yet", got="one that does")
    for role, (count, threshold) in plan.counts.items():
        most = min(count, SIGNATURES_MAX)
        if not 1 <= threshold <= most:
            raise Malformed(f"threshold of {role}", wanted=f"1 to {most}", got=str(threshold))
    half = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    try:
        (half / "keys").mkdir(parents=True)
        (half / "origin" / "metadata").mkdir(parents=True)
        fleet = _Maker(half, plan, now).make()
        half.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise Unavailable(str(folder), why=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return fleet


def fleet_facts(folder: Path) -> dict[str, Any]:
    """fleet.json: fleet, name, origin, mdns.

    Raises:
        Unavailable: `folder` is no fleet's.
    """
    try:
        facts = json_map(read_named(folder / "fleet.json", _FACTS_BYTES_MAX), "fleet.json")
    except FiredoorError as error:
        raise Unavailable(
            str(folder), why="not a fleet's folder; `firedoor init` makes one"
        ) from error
    return facts


class _Maker:
    """One run of `init`."""

    def __init__(self, folder: Path, plan: FleetPlan, now: UnixTime) -> None:
        self._folder = folder
        self._plan = plan
        self._now = now
        self._secrets: dict[str, list[bytes]] = {}
        self._ca = b""
        self._fleet = FleetId("")

    def make(self) -> FleetId:
        """Write everything; the fleet's id."""
        for role, (count, _) in self._plan.counts.items():
            self._secrets[role] = [os.urandom(64) for _ in range(count)]
        for role in (*ONLINE, "identity", "operator"):
            self._secrets.setdefault(role, [os.urandom(64)])
        root = self._write_metadata()
        self._fleet = fleet_of(root)
        ca_seed = self._secrets["ca"][0][:32]
        self._ca = make_authority(self._plan.name, ca_seed, self._now)
        for role, secrets in self._secrets.items():
            for number, secret in enumerate(secrets, 1):
                self._write_key(role, number, secret)
        facts = {
            "fleet": self._fleet,
            "name": self._plan.name,
            "origin": self._plan.origin,
            "mdns": list(self._plan.mdns),
        }
        for where in (self._folder, self._folder / "origin"):
            durable_write(where / "root.json", root, PUBLIC_MODE)
        durable_write(self._folder / "origin" / "ca.pem", self._ca, PUBLIC_MODE)
        operator = key_of(self._secrets["operator"][0][:32]).keyval["public"]
        write_operators(self._folder / "origin", (operator,))
        text = json.dumps(facts, indent=1).encode()
        durable_write(self._folder / "fleet.json", text, PUBLIC_MODE)
        return self._fleet

    def _seeds(self, role: str) -> RoleSeeds:
        threshold = self._plan.counts.get(role, (1, 1))[1]
        return RoleSeeds(tuple(secret[:32] for secret in self._secrets[role]), threshold)

    def _write_metadata(self) -> bytes:
        root_seeds = self._seeds("root")
        snapshot_seed, timestamp_seed = self._secrets["snapshot"][0], self._secrets["timestamp"][0]
        publishers = [role for role in self._plan.counts if role.startswith("releases/")]
        root = new_root(
            root_seeds,
            snapshot=snapshot_seed[:32],
            timestamp=timestamp_seed[:32],
            expires=self._in(OFFLINE_DAYS),
        ).to_bytes()
        roles = {role: self._seeds(role) for role in (*publishers, *BRAKE_ROLES)}
        targets = new_targets(root_seeds, roles, self._in(OFFLINE_DAYS)).to_bytes()
        listed = {"targets": targets}
        for role in publishers:
            releases = new_releases(self._seeds(role), self._in(RELEASES_DAYS))
            listed[role] = releases.to_bytes()
        files = {f"1.{quote(role, safe='')}.json": data for role, data in listed.items()}
        files["1.root.json"] = root
        expires = self._in(_SNAPSHOT_DAYS)
        snapshot = new_snapshot(listed, snapshot_seed[:32], expires).to_bytes()
        files["1.snapshot.json"] = snapshot
        expires = self._in(_TIMESTAMP_DAYS)
        files["timestamp.json"] = new_timestamp(snapshot, timestamp_seed[:32], expires).to_bytes()
        for name, data in files.items():
            durable_write(self._folder / "origin" / "metadata" / name, data)
        return root

    def _write_key(self, role: str, number: int, secret: bytes) -> None:
        is_online = role in (*ONLINE, "identity")
        peer_role = Role.MIRROR if role == "identity" else Role.OPERATOR
        certificate = b""
        if role not in ONLINE:
            certificate = issue(
                make_request(secret[32:]),
                ca_pem=self._ca,
                ca_seed=self._secrets["ca"][0][:32],
                role=peer_role,
                site="headquarters",
                now=self._now,
                span_days=OPERATOR_DAYS,
            )
        public = key_of(secret[:32])
        name = role.replace("/", "-")
        name = name if role in (*ONLINE, "identity", "operator") else f"{name}-{number}"
        key = KeyFile(
            role=role,
            name=name,
            fleet=self._fleet,
            keyid=public.keyid,
            public=public.keyval["public"],
            secret=secret.hex(),
            certificate=certificate.decode(),
            ca=self._ca.decode(),
            origin=self._plan.origin,
            mdns=self._plan.mdns,
        )
        where = self._folder / ("origin" if is_online else "keys")
        write_key_file(where / f"{name}.key", key, self._plan.passphrase)

    def _in(self, days: int) -> datetime.datetime:
        moment = datetime.datetime.fromtimestamp(self._now + days * _DAY_S, datetime.UTC)
        return moment.replace(microsecond=0)

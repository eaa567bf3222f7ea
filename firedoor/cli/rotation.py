"""`firedoor keys rotate`: other keys for a role, signed by root's keys; the root chain goes on.

* New offline keys are made here; new online ones at the origin, whose public half comes back.
* New key files are written before anything is signed, and take their places only once the origin
  has taken the rotation: a failure leaves the old keys in force and in place.
* Orders that a turned key had signed are signed anew, so that machines which never knew the old key
  obey them too. Machines that have them recorded obey them anyway.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from firedoor.cli.common import new_passphrase, open_key, say, with_client
from firedoor.cli.handing import collect_orders, give
from firedoor.cli.origin import Origin, verified
from firedoor.errors import Malformed
from firedoor.halt.order import Envelope, Signature
from firedoor.identity import FleetId
from firedoor.limits import ORDER_BYTES_MAX, SIGNATURES_MAX
from firedoor.runtime.catalogue import Catalogue
from firedoor.runtime.certificates import make_request
from firedoor.runtime.files import sync_folder
from firedoor.runtime.fleet_folder import OFFLINE_DAYS, RELEASES_DAYS, fleet_facts
from firedoor.runtime.key_files import KeyFile, is_sealed, write_key_file
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.trust.keys import key_of, public_key, register
from firedoor.trust.repository import (
    RolePublic,
    RoleSeeds,
    is_publisher,
    rotate_delegation,
    rotate_root,
    signed_anew,
)
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import decode, encode, pack

_ONLINE = ("snapshot", "timestamp", "beacon")
_TOP = ("root", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class Turn:
    """What `keys rotate` was asked for. `count` and `threshold`: 0 keeps what is."""

    role: str
    count: int
    threshold: int
    signers: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Fresh:
    """A new key, in a file that waits beside the place where it will be."""

    key: KeyFile
    waiting: Path
    place: Path


def rotate(fleet: Path, turn: Turn, passphrase_file: Path | None) -> None:
    """Give a role other keys.

    Raises:
        Malformed: no such role, or a threshold that cannot be.
        Unavailable, Refused: the origin does not answer, or says no; nothing is changed then.
    """
    register()
    paths = list(turn.signers) or sorted((fleet / "keys").glob("root-*.key"))
    roots = [open_key(path, passphrase_file) for path in paths]
    if not roots or any(key.role != "root" for key in roots):
        got = "none" if not roots else "another role's"
        raise Malformed("--signer", wanted="enough root keys, keys/root-*.key", got=got)
    operator = open_key(fleet / "keys" / "operator.key", passphrase_file)
    address = split_address(str(fleet_facts(fleet)["origin"]))

    seal = new_passphrase(passphrase_file) if is_sealed(paths[0]) else None

    async def work(client: PeerClient) -> None:
        origin = Origin(client, address)
        rotation = Rotating(fleet, turn, roots, origin, seal)
        # Before: once the old key is gone the origin offers nothing that it signed.
        is_brake = turn.role in {"halt", "resume"}
        orders = await collect_orders(client, address) if is_brake else []
        await rotation.run()
        anew = _signed_anew(rotation, orders, turn.role)
        for record in anew:
            await give(client, address, record)
        if is_brake:
            say(f"{len(anew)} order(s) signed anew by it")

    with_client(operator, work)


class Rotating:
    """One rotation on its way."""

    def __init__(
        self,
        fleet: Path,
        turn: Turn,
        roots: Sequence[KeyFile],
        origin: Origin,
        seal: str | None,
    ) -> None:
        self._fleet = fleet
        self._turn = turn
        self._roots = roots
        self._origin = origin
        self._seal = seal
        self.fresh: list[Fresh] = []
        self.threshold = 1

    async def run(self) -> None:
        """Make the keys, sign, hand in, and put the new key files in place."""
        async with verified(self._origin, FleetId(self._roots[0].fleet)) as catalogue:
            root = Metadata[Root].from_bytes(catalogue.top_file("root"))
            targets = Metadata[Targets].from_bytes(catalogue.top_file("targets"))
            new = await self._new_keys(root, targets)
            change = self._change(root, targets, new, catalogue)
        keys = [fresh.key for fresh in self.fresh]
        requests = tuple(make_request(key.tls_seed).decode() for key in keys)
        body = pack(change | {"requests": requests})
        answer = json.loads(await self._origin.post("/v1/keys/rotate", body))
        for fresh, certificate in zip(self.fresh, answer["certificates"], strict=True):
            self._write(fresh, replace(fresh.key, certificate=str(certificate)))
        self._put_in_place()
        say(f"{self._turn.role}: {len(new.keys)} new key(s), {self.threshold} must sign")

    async def _new_keys(
        self, root: Metadata[Root], targets: Metadata[Targets]
    ) -> RoleSeeds | RolePublic:
        role = self._turn.role
        count, threshold = _today(role, root.signed, targets.signed)
        count, threshold = self._turn.count or count, self._turn.threshold or threshold
        if not 1 <= threshold <= count <= SIGNATURES_MAX:
            wanted = f"a threshold of 1 to the number of keys, at most {SIGNATURES_MAX}"
            raise Malformed(role, wanted=wanted, got=f"{threshold} of {count}")
        self.threshold = threshold
        if role in _ONLINE:
            if (count, threshold) != (1, 1):
                raise Malformed(role, wanted="one key, the origin's", got=f"{threshold} of {count}")
            answer = json.loads(await self._origin.post("/v1/keys/fresh", role.encode()))
            return RolePublic((public_key(str(answer["public"])),), 1)
        self.fresh = [self._fresh(number) for number in range(1, count + 1)]
        for fresh in self.fresh:
            self._write(fresh, fresh.key)
        return RoleSeeds(tuple(fresh.key.signing_seed for fresh in self.fresh), threshold)

    def _change(
        self,
        root: Metadata[Root],
        targets: Metadata[Targets],
        new: RoleSeeds | RolePublic,
        catalogue: Catalogue,
    ) -> dict[str, Any]:
        role, later = self._turn.role, _in_days(OFFLINE_DAYS)
        signers = [key.signing_seed for key in self._roots]
        if role not in _TOP:
            turned = rotate_delegation(targets, role, new, signers=signers, expires=later)
            change: dict[str, Any] = {"targets": turned.to_bytes()}
            if is_publisher(role) and isinstance(new, RoleSeeds):
                listed = Metadata[Targets].from_bytes(catalogue.role_file(role))
                expires = _in_days(RELEASES_DAYS)
                change["lists"] = {role: signed_anew(listed, new.seeds, expires).to_bytes()}
            return change
        change = {"root": rotate_root(root, role, new, signers=signers, expires=later).to_bytes()}
        if role == "root" and isinstance(new, RoleSeeds):
            change["targets"] = signed_anew(targets, new.seeds, later).to_bytes()
        return change

    def _fresh(self, number: int) -> Fresh:
        old, secret = self._roots[0], os.urandom(64)
        public = key_of(secret[:32])
        name = f"{self._turn.role.replace('/', '-')}-{number}"
        key = replace(
            old,
            role=self._turn.role,
            name=name,
            keyid=public.keyid,
            public=public.keyval["public"],
            secret=secret.hex(),
            # Until the origin has issued its own; it takes the rotation first.
            certificate=old.certificate,
        )
        folder = self._fleet / "keys"
        return Fresh(key, folder / f"{name}.new.key", folder / f"{name}.key")

    def _write(self, fresh: Fresh, key: KeyFile) -> None:
        write_key_file(fresh.waiting, key, self._seal)

    def _put_in_place(self) -> None:
        keys = self._fleet / "keys"
        retired = keys / "retired"
        if self.fresh:
            retired.mkdir(mode=0o700, exist_ok=True)
        stem = self._turn.role.replace("/", "-")
        for path in sorted(keys.glob(f"{stem}-*.key")) if self.fresh else ():
            if not path.name.endswith(".new.key"):
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
                path.rename(retired / f"{path.stem}.{stamp}.key")
        for fresh in self.fresh:
            fresh.waiting.rename(fresh.place)
        sync_folder(keys)


def _signed_anew(rotation: Rotating, orders: Sequence[bytes], role: str) -> list[bytes]:
    """Those of `orders` that belong to this role, by its new keys."""
    keys = [fresh.key for fresh in rotation.fresh][: rotation.threshold]
    found: list[bytes] = []
    for record in orders:
        envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
        if envelope.kind == role:
            message = signed_bytes(FleetId(keys[0].fleet), role, envelope.payload)
            parts = tuple(Signature(key.keyid, sign(key.signing_seed, message)) for key in keys)
            found.append(encode(replace(envelope, signatures=parts)))
    return found


def _today(role: str, root: Root, targets: Targets) -> tuple[int, int]:
    """How many keys a role has, and how many must sign."""
    delegated = (targets.delegations.roles if targets.delegations is not None else None) or {}
    found = root.roles.get(role) if role in _TOP else delegated.get(role)
    if found is None:
        known = ", ".join([*_TOP, *sorted(delegated)])
        raise Malformed("role", wanted=f"one of {known}", got=repr(role[:80]))
    return len(found.keyids), found.threshold


def _in_days(days: int) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)

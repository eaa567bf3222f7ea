"""`firedoor keys rotate`: other keys for a role, signed by root's keys; the root chain goes on.

* New offline keys are made here; new online ones at the origin, whose public half comes back.
* New key files wait as `NAME.new.key` until the origin has taken the rotation. A run that finds
  some waiting asks signed metadata whether they count already: then it only finishes, for the
  answer of an earlier run was lost; else it goes on with them. Nothing that may count is written
  over.
* Orders that a turned key had signed are signed anew, so that machines which never knew the old key
  obey them too. Machines that have them recorded obey them anyway.
* A new key file has a TLS identity of its own: the one in a stolen file can be banned.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from firedoor.cli.client.answers import say
from firedoor.cli.client.evidence import lines_of
from firedoor.cli.client.key_opening import checked_public, new_passphrase, open_key
from firedoor.cli.client.order_delivery import give
from firedoor.cli.client.origin import Origin, origin_of, verified
from firedoor.cli.client.requests import with_client
from firedoor.errors import Absent, Malformed, Refused
from firedoor.halt.envelope import Envelope, Signature, id_of, only_by, role_of, threshold_of
from firedoor.halt.order import Order, Revoke, read_order
from firedoor.identity import FleetId
from firedoor.limits import LIST_ITEMS_MAX, ORDER_BYTES_MAX, ORDERS_MAX, SIGNATURES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write, sync_folder
from firedoor.runtime.keys.authority import make_request
from firedoor.runtime.keys.fleet_folder import OFFLINE_DAYS, RELEASES_DAYS
from firedoor.runtime.keys.key_files import KeyFile, is_sealed, write_key_file
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.program.renewal import checked_renewal
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
from firedoor.wire.codec import decode, encode, pack, unpack
from firedoor.wire.json_text import json_map

_ONLINE = ("snapshot", "timestamp", "beacon")
_TOP = ("root", "snapshot", "timestamp")
_BRAKE = ("halt", "resume", "promote")


@dataclass(frozen=True, slots=True)
class RotationRequest:
    """What `keys rotate` was asked for. `count` and `threshold`: 0 keeps what is.

    For the origin's own roles 0 means its key with `others`, and a threshold of 1.
    `survivors`: compact the orders of the role to these ids; None: every order survives. `others`:
    public keys, in hex, of other machines that shall hold the role too.
    """

    role: str
    count: int
    threshold: int
    signers: tuple[Path, ...]
    survivors: tuple[str, ...] | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What signed metadata says of the role now."""

    keyids: tuple[str, ...]
    threshold: int


def rotate(fleet: Path, turn: RotationRequest, passphrase_file: Path | None) -> None:
    """Give a role other keys.

    Raises:
        Malformed: no such role, a threshold that cannot be, or waiting files that do not fit.
        Unavailable, Refused: the origin says no, or does not answer. Whether it took the rotation
            all the same the next run finds out; until then the old files are in place.
    """
    register()
    roots = roots_of(fleet, turn.signers, passphrase_file)
    operator = operator_of(fleet, passphrase_file)
    address = origin_of(operator)
    is_closed = is_sealed((turn.signers or _root_paths(fleet))[0])
    files = KeyFiles(fleet / "keys", turn.role, passphrase_file, is_closed=is_closed)

    async def work(client: PeerClient) -> None:
        origin = Origin(client, address, operator)
        if turn.role in _BRAKE:
            # Before: once the old key is gone the origin offers nothing that it signed.
            files.remember(await _alive(origin, FleetId(operator.fleet), turn.role))
        threshold = await _turn(origin, turn, roots, files)
        keys = files.put_in_place()
        if turn.role in _BRAKE:
            anew = [
                (order_id, order)
                for order_id, order in _by_new_keys(files.remembered(), keys, threshold, turn.role)
                if turn.survivors is None or order_id.hex() in turn.survivors
            ]
            for order_id, order in anew:
                await give(client, address, order, order_id)
                say(f"signed anew: {order_id.hex()}")
            files.forget()
            say(f"{len(anew)} order(s) signed anew by it")

    with_client(operator, work)


def roots_of(fleet: Path, signers: Sequence[Path], passphrase_file: Path | None) -> list[KeyFile]:
    """Root's keys: those named, or all that lie in the fleet's folder.

    Raises:
        Malformed: there are none, or one is another role's.
    """
    paths = list(signers) or _root_paths(fleet)
    roots = [open_key(path, passphrase_file) for path in paths]
    if not roots or any(key.role != "root" for key in roots):
        got = "none" if not roots else "another role's"
        raise Malformed("--signer", wanted="enough root keys, keys/root-*.key", got=got)
    return roots


def _root_paths(fleet: Path) -> list[Path]:
    found = sorted((fleet / "keys").glob("root-*.key"))
    return [path for path in found if not path.name.endswith(".new.key")]


def operator_of(fleet: Path, passphrase_file: Path | None) -> KeyFile:
    """The operator's key in a fleet's folder, the one that was made last; raises as `open_key`."""
    return open_key(path_of_operator(fleet), passphrase_file)


def path_of_operator(fleet: Path) -> Path:
    """Where it lies: `keys operators --new` makes `operator-2.key` in place of one that is lost."""
    keys = fleet / "keys"
    numbered = [
        (int(found[1]), path)
        for path in keys.glob("operator-*.key")
        if (found := re.fullmatch(r"operator-(\d+)\.key", path.name))
    ]
    return max(numbered)[1] if numbered else keys / "operator.key"


async def _alive(origin: Origin, fleet: FleetId, role: str) -> list[bytes]:
    """The orders of a role that its keys of today have signed and no revocation has ended.

    Each with the signatures that still count, and no others: what is signed anew is what people had
    signed, whoever answers for the origin. Each is said, for somebody to read.
    """
    async with verified(origin, fleet) as catalogue:
        authority = catalogue.authority
    assert authority is not None
    orders: list[Order] = []
    for record in await origin.orders():
        with suppress(Refused):
            orders.append(read_order(record, authority))
    revokes = [order for order in orders if isinstance(order, Revoke)]
    found = []
    for order in orders:
        gone = {each.keyid for each in revokes if order.id not in each.survivors}
        left = order.signers - gone
        if role_of(order.kind) == role and len(left) >= threshold_of(order.kind, authority):
            envelope = decode(Envelope, order.record, what="order", limit=ORDER_BYTES_MAX)
            found.append(encode(only_by(envelope, left)))
            for line in (order.id.hex(), *lines_of(order)):
                say(line)
    return found


async def _turn(
    origin: Origin, turn: RotationRequest, roots: Sequence[KeyFile], files: "KeyFiles"
) -> int:
    """Sign the rotation and hand it in, unless it was taken before; how many keys must sign."""
    async with verified(origin, FleetId(roots[0].fleet)) as catalogue:
        root = Metadata[Root].from_bytes(catalogue.top_file("root"))
        targets = Metadata[Targets].from_bytes(catalogue.top_file("targets"))
        now = _standing(turn.role, root.signed, targets.signed)
        waiting = files.waiting()
        # A run that was cut between two files has put some of them in place already.
        if waiting and {key.keyid for key in waiting} <= set(now.keyids):
            say(f"{turn.role}: the origin has taken these keys before; finishing")
            return now.threshold
        count, threshold = turn.count or len(now.keyids), turn.threshold or now.threshold
        if turn.role in _ONLINE:
            # The origin's own and, for beacons, those of the machines that were named this time.
            count, threshold = 1 + len(turn.others), turn.threshold or 1
            if turn.count not in {0, count}:
                wanted = f"{count}: the origin's and what --with names"
                raise Malformed(f"keys of {turn.role}", wanted=wanted, got=str(turn.count))
        _check_counts(turn.role, count, threshold)
        if turn.role in _ONLINE:
            answer = json_map(await origin.post("/v1/keys/fresh", turn.role.encode()), "fresh key")
            others = [checked_public("--with", each) for each in turn.others]
            own = checked_public("the origin's fresh key", str(answer.get("public")))
            publics = (own, *others)
            new: RoleSeeds | RolePublic = RolePublic(tuple(map(public_key, publics)), threshold)
        else:
            keys = files.make(count, roots[0])
            await files.certify(origin, roots[0])
            new = RoleSeeds(tuple(key.signing_seed for key in keys), threshold)
        signers = [key.signing_seed for key in roots]
        change = _change(turn, (root, targets), new, signers, catalogue)
    await origin.post("/v1/keys/rotate", pack(change))
    say(f"{turn.role}: {count} new key(s), {threshold} must sign")
    return threshold


def _change(
    turn: RotationRequest,
    today: tuple[Metadata[Root], Metadata[Targets]],
    new: RoleSeeds | RolePublic,
    signers: Sequence[bytes],
    catalogue: Catalogue,
) -> dict[str, Any]:
    """The files of the rotation, as mirror/origin/rotation.py takes them."""
    (root, targets), later, role = today, in_days(OFFLINE_DAYS), turn.role
    if role in _TOP:
        turned = rotate_root(root, role, new, signers=signers, expires=later)
        change: dict[str, Any] = {"root": turned.to_bytes()}
        if role == "root" and isinstance(new, RoleSeeds):
            change["targets"] = signed_anew(targets, new.seeds, later).to_bytes()
        return change
    delegated = rotate_delegation(
        targets, role, new, signers=signers, expires=later, survivors=turn.survivors
    )
    change = {"targets": delegated.to_bytes()}
    if is_publisher(role) and isinstance(new, RoleSeeds):
        listed = Metadata[Targets].from_bytes(catalogue.role_file(role))
        expires = in_days(RELEASES_DAYS)
        change["lists"] = {role: signed_anew(listed, new.seeds, expires).to_bytes()}
    return change


class KeyFiles:
    """The files of one role in a fleet's `keys` folder: those in place and those that wait."""

    def __init__(
        self, folder: Path, role: str, passphrase_file: Path | None, *, is_closed: bool
    ) -> None:
        """`is_closed`: new keys are sealed, as root's are."""
        self._folder = folder
        self._is_closed = is_closed
        self._role = role
        self._stem = role.replace("/", "-")
        self._passphrase_file = passphrase_file
        self._passphrase = ""

    def waiting(self) -> list[KeyFile]:
        """The new keys that an earlier run left, in order of number."""
        return [open_key(path, self._passphrase_file) for path in self._paths(".new")]

    def make(self, count: int, pattern: KeyFile) -> list[KeyFile]:
        """So many new keys, durable and waiting; those that wait already are taken.

        Raises:
            Malformed: another number waits.
        """
        waiting = self.waiting()
        if len(waiting) == count:
            return waiting
        if waiting:
            names = ", ".join(path.name for path in self._paths(".new"))
            raise Malformed("waiting keys", wanted=f"{count}, or none", got=names)
        places = [open_key(path, self._passphrase_file) for path in self._paths("")]
        for number in range(1, count + 1):
            identity = places[number - 1] if number <= len(places) else pattern
            self._write(number, identity)
        return self.waiting()

    async def certify(self, origin: Origin, pattern: KeyFile) -> None:
        """Give each waiting key a certificate of its own: the one of a stolen file can be banned.

        Raises:
            Unavailable, Refused: the origin does not answer, or says no.
        """
        places = [open_key(path, self._passphrase_file) for path in self._paths("")]
        shared = {each.tls_seed for each in (*places, pattern)}
        for path, key in zip(self._paths(".new"), self.waiting(), strict=True):
            if key.tls_seed in shared:
                write_key_file(path, await with_own_identity(origin, key), self._seal())

    def put_in_place(self) -> list[KeyFile]:
        """Let the waiting keys take the place of the old ones, which retire; the keys."""
        fresh = self._paths(".new")
        retired = self._folder / "retired"
        # The first to go in place is number 1; where it has, what is in place is new.
        is_begun = bool(fresh) and not fresh[0].name.endswith("-1.new.key")
        for path in self._paths("") if fresh and not is_begun else ():
            retired.mkdir(mode=0o700, exist_ok=True)
            path.rename(retired / f"{path.stem}.{stamp()}.key")
        for path in fresh:
            path.rename(path.with_name(path.name.replace(".new.key", ".key")))
        sync_folder(self._folder)
        return [open_key(path, self._passphrase_file) for path in self._paths("") if fresh]

    def remember(self, orders: Sequence[bytes]) -> None:
        """Keep orders beside the keys, with those of an earlier run, until they are signed anew."""
        known = dict.fromkeys([*self.remembered(), *orders])
        durable_write(self._orders, pack(list(known)), 0o600)

    def remembered(self) -> list[bytes]:
        """The orders that wait to be signed anew."""
        if not self._orders.exists():
            return []
        limit = ORDERS_MAX * ORDER_BYTES_MAX + LIST_ITEMS_MAX
        kept = unpack(self._orders.read_bytes(), what=str(self._orders), limit=limit)
        if not isinstance(kept, list) or not all(isinstance(each, bytes) for each in kept):
            raise Malformed(str(self._orders), wanted="a list of orders", got="something else")
        return kept

    def forget(self) -> None:
        """Every order has been signed anew."""
        self._orders.unlink(missing_ok=True)

    @property
    def _orders(self) -> Path:
        return self._folder / f"{self._stem}.orders"

    def _paths(self, mark: str) -> list[Path]:
        """The role's key files with this mark, in order of number; not those of `main-eu`."""
        name = re.compile(rf"{re.escape(self._stem)}-(\d+){re.escape(mark)}\.key")
        found = [(name.fullmatch(path.name), path) for path in self._folder.iterdir()]
        numbered = [(int(match[1]), path) for match, path in found if match is not None]
        return [path for _, path in sorted(numbered)]

    def _write(self, number: int, identity: KeyFile) -> None:
        name = f"{self._stem}-{number}"
        key = new_key(identity, self._role, name)
        write_key_file(self._folder / f"{name}.new.key", key, self._seal())

    def _seal(self) -> str | None:
        """The passphrase of new files, asked for once."""
        if self._is_closed and not self._passphrase:
            self._passphrase = new_passphrase(self._passphrase_file)
        return self._passphrase or None


def new_key(identity: KeyFile, role: str, name: str) -> KeyFile:
    """A signing key that nobody has had before, with the TLS identity of another file."""
    signing = os.urandom(32)
    public = key_of(signing)
    return replace(
        identity,
        role=role,
        name=name,
        keyid=public.keyid,
        public=public.keyval["public"],
        secret=(signing + identity.tls_seed).hex(),
    )


async def with_own_identity(origin: Origin, key: KeyFile) -> KeyFile:
    """The same signing key with a TLS identity that nobody has had before.

    An origin of version 0.1 makes no certificates: there it stays as it is.

    Raises:
        Unavailable, Refused: the origin does not answer, or says no.
    """
    fresh = replace(key, secret=(key.signing_seed + os.urandom(32)).hex())
    try:
        answer = await origin.post("/v1/keys/certificate", make_request(fresh.tls_seed))
    except Absent:
        return key
    offered = replace(fresh, certificate=answer.decode(errors="replace"))
    return replace(offered, certificate=checked_renewal(offered, answer, Clock().unix()))


def _by_new_keys(
    orders: Sequence[bytes], keys: Sequence[KeyFile], threshold: int, role: str
) -> list[tuple[bytes, bytes]]:
    """Id and record of those of `orders` that belong to this role, signed by these keys.

    By as many as had signed it before, for a halt of two keys reaches further than one.
    """
    fleet = FleetId(keys[0].fleet)
    found: list[tuple[bytes, bytes]] = []
    for record in orders:
        envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
        if role_of(envelope.kind) == role:
            message = signed_bytes(fleet, envelope.kind, envelope.payload)
            count = max(threshold, len(envelope.signatures))
            parts = tuple(
                Signature(key.keyid, sign(key.signing_seed, message)) for key in keys[:count]
            )
            record_anew = encode(replace(envelope, signatures=parts))
            found.append((id_of(fleet, envelope), record_anew))
    return found


def _check_counts(role: str, count: int, threshold: int) -> None:
    if not 1 <= threshold <= count <= SIGNATURES_MAX:
        wanted = f"a threshold of 1 to the number of keys, at most {SIGNATURES_MAX}"
        raise Malformed(role, wanted=wanted, got=f"{threshold} of {count}")


def _standing(role: str, root: Root, targets: Targets) -> Standing:
    delegated = (targets.delegations.roles if targets.delegations is not None else None) or {}
    found = root.roles.get(role) if role in _TOP else delegated.get(role)
    if found is None:
        known = ", ".join([*_TOP, *sorted(delegated)])
        raise Malformed("role", wanted=f"one of {known}", got=repr(role[:80]))
    return Standing(tuple(found.keyids), found.threshold)


def stamp() -> str:
    """The moment, for the name of a file that retires."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")


def in_days(days: int) -> datetime:
    """A date so many days from now, as metadata has it."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)

"""`firedoor keys publisher` and `keys grant`: who may publish, and whose product is whose.

Root's keys sign both, as they sign a rotation; the origin and every machine follow. A publisher
that is added gets key files with a certificate of their own, and an empty list.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tuf.api.metadata import Metadata, Snapshot, Targets

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import new_passphrase, open_key
from firedoor.cli.client.origin import Origin, origin_of, verified
from firedoor.cli.client.requests import with_client
from firedoor.cli.fleet.rotation import (
    in_days,
    new_key,
    operator_of,
    path_of_operator,
    roots_of,
    stamp,
    with_own_identity,
)
from firedoor.errors import Malformed
from firedoor.identity import FleetId, checked_name
from firedoor.limits import SIGNATURES_MAX
from firedoor.runtime.keys.fleet_folder import OFFLINE_DAYS, RELEASES_DAYS
from firedoor.runtime.keys.key_files import KeyFile, is_sealed, write_key_file
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.trust.keys import register
from firedoor.trust.repository import (
    GRANTS,
    RoleSeeds,
    is_publisher,
    new_releases,
    with_grants,
    with_publisher,
    without_publisher,
)
from firedoor.wire.codec import pack

Change = Callable[[Metadata[Targets], Sequence[bytes]], Metadata[Targets]]
"""Targets and root's seeds to the next targets, signed."""

Work = Callable[[Origin, Metadata[Targets], Sequence[bytes]], Awaitable[None]]


def add_publisher(
    fleet: Path, name: str, keys: tuple[int, int], passphrase_file: Path | None
) -> None:
    """Let one more publisher sign releases; `keys`: how many there are, how many must sign.

    Raises:
        Malformed: the name is taken or none, or key files of it lie there.
        Unavailable, Refused: the origin says no, or does not answer. The key files then wait; a
            second run goes on with them.
    """
    role = f"releases/{checked_name('publisher', name)}"
    count, threshold = keys
    if not 1 <= threshold <= count <= SIGNATURES_MAX:
        wanted = f"a threshold of 1 to the number of keys, at most {SIGNATURES_MAX}"
        raise Malformed(role, wanted=wanted, got=f"{threshold} of {count}")

    async def work(origin: Origin, targets: Metadata[Targets], signers: Sequence[bytes]) -> None:
        roles = (targets.signed.delegations.roles if targets.signed.delegations else None) or {}
        if role in roles:
            raise Malformed("publisher", wanted="a new name", got=name)
        files = [fleet / "keys" / f"releases-{name}-{each + 1}.key" for each in range(count)]
        made = [await _key_file(origin, path, role, fleet, passphrase_file) for path in files]
        new = RoleSeeds(tuple(each.signing_seed for each in made), threshold)
        changed = with_publisher(targets, role, new, signers=signers, expires=in_days(OFFLINE_DAYS))
        known = await _version_of(origin, made[0], role)
        listed = new_releases(new, in_days(RELEASES_DAYS), version=known + 1)
        change = {"targets": changed.to_bytes(), "lists": {role: listed.to_bytes()}}
        await origin.post("/v1/keys/rotate", pack(change))
        say(f"{role}: {count} key(s), {threshold} must sign; its list is empty")

    _with_targets(fleet, passphrase_file, work)


def remove_publisher(fleet: Path, name: str, passphrase_file: Path | None) -> None:
    """Let a publisher sign no more: its releases are listed by nobody.

    Raises:
        Malformed: there is none of that name, or it is the last one.
        Unavailable, Refused: the origin says no, or does not answer.
    """
    role = f"releases/{checked_name('publisher', name)}"
    keys = fleet / "keys"
    shape = re.compile(rf"releases-{re.escape(name)}-[0-9]+\.key")
    files = [path for path in sorted(keys.iterdir()) if shape.fullmatch(path.name)]

    async def work(origin: Origin, targets: Metadata[Targets], signers: Sequence[bytes]) -> None:
        roles = (targets.signed.delegations.roles if targets.signed.delegations else None) or {}
        if role not in roles and files:
            return  # A run that was cut off has removed it; its files have still to go.
        expires = in_days(OFFLINE_DAYS)
        changed = without_publisher(targets, role, signers=signers, expires=expires)
        await origin.post("/v1/keys/rotate", pack({"targets": changed.to_bytes()}))

    _with_targets(fleet, passphrase_file, work)
    for path in files:
        # One that is added under this name again must not be whoever has a copy of these.
        (keys / "retired").mkdir(mode=0o700, exist_ok=True)
        path.rename(keys / "retired" / f"{path.stem}.{stamp()}.key")
    say(f"{role} signs no more; what runs goes on, and its products are nobody's until granted")


def grant(fleet: Path, product: str, publisher: str, passphrase_file: Path | None) -> None:
    """Say by root's keys whose a product is.

    Raises:
        Malformed: no such publisher.
        Unavailable, Refused: the origin says no, or does not answer.
    """
    _grant(fleet, {checked_name("product", product): publisher}, passphrase_file)


def grant_from_lists(fleet: Path, passphrase_file: Path | None) -> None:
    """Propose, and sign, that each product is its publisher's of today, as this machine sees it.

    Raises:
        Unavailable, Refused: the origin says no, or does not answer.
    """
    found: dict[str, str] = {}

    async def look(origin: Origin, _: Metadata[Targets], __: Sequence[bytes]) -> None:
        key = operator_of(fleet, passphrase_file)
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            found.update({each.product: each.publisher for each in catalogue.releases})

    _with_targets(fleet, passphrase_file, look)
    _grant(fleet, found, passphrase_file)


def _grant(fleet: Path, grants: Mapping[str, str], passphrase_file: Path | None) -> None:
    expires = in_days(OFFLINE_DAYS)

    def change(targets: Metadata[Targets], seeds: Sequence[bytes]) -> Metadata[Targets]:
        roles = (targets.signed.delegations.roles if targets.signed.delegations else None) or {}
        unknown = [each for each in grants.values() if f"releases/{each}" not in roles]
        if unknown:
            known = ", ".join(each.partition("/")[2] for each in roles if is_publisher(each))
            raise Malformed("publisher", wanted=known, got=repr(unknown[0][:80]))
        before = targets.signed.unrecognized_fields.get(GRANTS)
        held = before if isinstance(before, dict) else {}
        for product, publisher in sorted(grants.items()):
            mark = "" if held.get(product) == publisher else " (new)"
            say(f"{product} = {publisher}{mark}")
        return with_grants(targets, grants, signers=seeds, expires=expires)

    _change(fleet, passphrase_file, change)


def _change(fleet: Path, passphrase_file: Path | None, change: Change) -> None:
    async def work(origin: Origin, targets: Metadata[Targets], signers: Sequence[bytes]) -> None:
        changed = change(targets, signers)
        await origin.post("/v1/keys/rotate", pack({"targets": changed.to_bytes()}))

    _with_targets(fleet, passphrase_file, work)


def _with_targets(fleet: Path, passphrase_file: Path | None, work: Work) -> None:
    """Run `work` with the origin, its verified targets, and root's seeds."""
    register()
    roots = roots_of(fleet, (), passphrase_file)
    operator = operator_of(fleet, passphrase_file)

    async def run(client: PeerClient) -> None:
        origin = Origin(client, origin_of(operator), operator)
        async with verified(origin, FleetId(operator.fleet)) as catalogue:
            targets = Metadata[Targets].from_bytes(catalogue.top_file("targets"))
        await work(origin, targets, [key.signing_seed for key in roots])

    with_client(operator, run)


async def _version_of(origin: Origin, key: KeyFile, role: str) -> int:
    """The version of the role's list that the fleet last had; 0: none of that name."""
    async with verified(origin, FleetId(key.fleet)) as catalogue:
        snapshot = Metadata[Snapshot].from_bytes(catalogue.top_file("snapshot")).signed
    known = snapshot.meta.get(f"{role}.json")
    return known.version if known is not None else 0


async def _key_file(
    origin: Origin, path: Path, role: str, fleet: Path, passphrase_file: Path | None
) -> KeyFile:
    """A new key file, or the one that an earlier run left."""
    if path.exists():
        key = open_key(path, passphrase_file)
        if key.role != role:
            raise Malformed(str(path), wanted=f"a key of {role}", got=key.role)
        return key
    key = new_key(operator_of(fleet, passphrase_file), role, path.stem)
    whole = await with_own_identity(origin, key)
    is_closed = is_sealed(path_of_operator(fleet))
    seal = new_passphrase(passphrase_file) if is_closed else None
    write_key_file(path, whole, seal)
    say(f"{path} is new; hand it to the publisher")
    return whole

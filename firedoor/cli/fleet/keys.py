"""`firedoor init` and `firedoor keys list | renew | beacon | controller`: a fleet's keys."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Targets

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import new_passphrase, open_key
from firedoor.cli.client.origin import Origin, verified, with_origin
from firedoor.errors import Malformed
from firedoor.identity import FleetId, Role, checked_name
from firedoor.limits import METADATA_BYTES_MAX, SIGNATURES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import PUBLIC_MODE, durable_write
from firedoor.runtime.folders import read_named
from firedoor.runtime.keys.authority import (
    OPERATOR_DAYS,
    fingerprint,
    issue,
    make_request,
    renew_authority,
)
from firedoor.runtime.keys.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.keys.key_files import (
    BEACON_KEY,
    CONTROLLER,
    KeyFile,
    is_sealed,
    read_key_file,
    read_public,
    replace_authority,
    replace_certificate,
    write_key_file,
)
from firedoor.runtime.keys.operator_proof import write_operators
from firedoor.runtime.program.renewal import checked_renewal
from firedoor.runtime.settings import check_interfaces, split_address
from firedoor.trust.keys import key_of

# More keys than a role can ever count signatures of are a slip of the finger.
_KEYS_MAX = 4 * SIGNATURES_MAX


def init_fleet(
    folder: Path,
    *,
    name: str,
    origin: str,
    mdns: tuple[str, ...],
    counts: Mapping[str, tuple[int, int]],
    secrecy: tuple[Path | None, bool],
) -> None:
    """Make a fleet in `folder`; `secrecy`: passphrase file, and whether none is wanted.

    Raises:
        Malformed: contradictory options, an address that is none, a folder that exists.
    """
    passphrase_file, is_open = secrecy
    if is_open and passphrase_file is not None:
        raise Malformed("options", wanted="a passphrase or none", got="both")
    if origin:
        split_address(origin)
    check_interfaces("--mdns", mdns)
    for role, (count, _) in counts.items():
        checked_name("--publisher", role.rpartition("/")[2])
        if not 1 <= count <= _KEYS_MAX:
            raise Malformed(f"keys of {role}", wanted=f"1 to {_KEYS_MAX}", got=str(count))
    if folder.exists():
        raise Malformed(str(folder), wanted="a folder that does not exist yet", got="one that does")
    passphrase = None if is_open else new_passphrase(passphrase_file)
    plan = FleetPlan(name, origin, mdns, counts, passphrase)
    fleet = make_fleet(folder, plan, Clock().unix())
    if is_open:
        say(f"WARNING: the keys in {folder} are NOT sealed: whoever reads a file can use its key")
    say(f"fleet {fleet} in {folder}")
    say("  keys/    keep offline; hand halt-*.key to operators, releases-*.key to publishers")
    say("  origin/  goes to the origin's machine (origin_folder in its mirror.toml)")
    say("  root.json  is public; every machine gets it when it enrols")


def list_keys(key: KeyFile) -> None:
    """Print every role, how many of its keys must sign, and their ids, as root signed it.

    Raises:
        Unavailable, Refused: the origin does not answer, or its metadata does not verify.
    """

    async def work(origin: Origin) -> None:
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            root = Metadata[Root].from_bytes(catalogue.top_file("root")).signed
            targets = Metadata[Targets].from_bytes(catalogue.top_file("targets")).signed
        delegated = (targets.delegations.roles if targets.delegations else None) or {}
        say(f"root version {root.version}, targets version {targets.version}")
        for name, role in (*root.roles.items(), *delegated.items()):
            ids = ", ".join(keyid[:12] for keyid in role.keyids)
            say(f"  {name}: {role.threshold} of {len(role.keyids)} ({ids})")

    with_origin(key, work)


def make_beacon_key(state: Path) -> None:
    """Write a mirror's own beacon key beside its identity and print the public half.

    One that is there already is shown again: a second run must not make the first one's useless.

    Raises:
        Unavailable, Malformed: there is no identity of a mirror, or the folder cannot be written.
    """
    identity = read_key_file(state / "identity.key", lambda: "")
    if identity.role != Role.MIRROR.value:
        raise Malformed(str(state), wanted="a mirror's state folder", got=f"role {identity.role}")
    path = state / BEACON_KEY
    if not path.exists():
        # A signing half and a TLS half, as in every key file; nobody is dialled with this one.
        secret = os.urandom(64)
        public = key_of(secret[:32])
        key = KeyFile(
            role="beacon",
            name="beacon",
            fleet=identity.fleet,
            keyid=public.keyid,
            public=public.keyval["public"],
            secret=secret.hex(),
        )
        write_key_file(path, key, None)
    say(read_key_file(path, lambda: "").public)


def make_controller_key(path: Path, operator: Path, passphrase_file: Path | None) -> None:
    """Write the key file of an automatic controller and print its public half.

    It stays open, for a program has to read it by itself: that is why it reaches so little.

    Raises:
        Malformed: the file exists, or the other is no operator's.
        Unavailable: a file cannot be read or written.
    """
    identity = open_key(operator, passphrase_file)
    if identity.role != Role.OPERATOR.value:
        raise Malformed(str(operator), wanted="an operator's key file", got=f"role {identity.role}")
    if path.exists():
        raise Malformed(str(path), wanted="a new file", got="one that exists")
    signing = os.urandom(32)
    public = key_of(signing)
    key = replace(
        identity,
        role=CONTROLLER,
        name=path.stem,
        keyid=public.keyid,
        public=public.keyval["public"],
        secret=(signing + identity.tls_seed).hex(),
    )
    write_key_file(path, key, None)
    say(key.public)


def renew_authority_certificate(
    origin: Path, files: list[Path], passphrase_file: Path | None
) -> None:
    """Make the certificate of the fleet's CA again, on the origin's own disk, for the same key.

    `files`: key files of operators that take it over, so that their tokens name it.

    Raises:
        Malformed: `origin` is of another fleet's key, or a file is of another fleet.
        Unavailable: a file cannot be read or written.
    """
    key = open_key(origin / "ca.key", passphrase_file)
    others = [path for path in files if read_public(path).fleet != key.fleet]
    if others:
        wanted = f"a key file of fleet {key.fleet[:12]}"
        raise Malformed(str(others[0]), wanted=wanted, got="another fleet's")
    fresh = renew_authority(key.ca.encode(), key.signing_seed, Clock().unix())
    durable_write(origin / "ca.pem", fresh, PUBLIC_MODE)
    for path in files:
        replace_authority(path, fresh.decode())
        say(f"{path} has the new certificate")
    say(f"CA certificate {fingerprint(fresh)[:12]} in {origin}; restart the origin to use it")


def name_operators(
    origin: Path, files: list[Path], fresh: Path | None, passphrase_file: Path | None
) -> None:
    """Say on the origin's own disk whose key files make tokens and turn keys: these alone.

    `fresh`: a new key file of an operator, made there first in place of one that is lost or stolen.

    Raises:
        Malformed: a file is of another fleet or no operator's, `fresh` exists, or none is named.
        Unavailable: a file cannot be read or written.
    """
    if fresh is not None:
        _make_operator(origin, fresh, passphrase_file)
        files = [*files, fresh]
    if not files:
        raise Malformed("operators", wanted="at least one key file, or --new", got="none")
    authority = read_public(origin / "ca.key")
    keys = [read_public(path) for path in files]
    for path, key in zip(files, keys, strict=True):
        if (key.fleet, key.role) != (authority.fleet, Role.OPERATOR.value):
            wanted, got = "an operator's key file of this fleet", f"role {key.role}"
            raise Malformed(str(path), wanted=wanted, got=got)
    write_operators(origin, tuple(key.public for key in keys))
    for key in keys:
        say(f"{key.name}: {key.keyid[:12]} makes tokens and turns keys")


def _make_operator(origin: Path, path: Path, passphrase_file: Path | None) -> None:
    if path.exists():
        raise Malformed("--new", wanted="a new file", got=f"{path}, which exists")
    authority = open_key(origin / "ca.key", passphrase_file)
    identity = read_public(origin / "identity.key")
    secret = os.urandom(64)
    public = key_of(secret[:32])
    ca = read_named(origin / "ca.pem", METADATA_BYTES_MAX)
    certificate = issue(
        make_request(secret[32:]),
        ca_pem=ca,
        ca_seed=authority.signing_seed,
        role=Role.OPERATOR,
        site="headquarters",
        now=Clock().unix(),
        span_days=OPERATOR_DAYS,
    )
    key = KeyFile(
        role=Role.OPERATOR.value,
        name=path.stem,
        fleet=authority.fleet,
        keyid=public.keyid,
        public=public.keyval["public"],
        secret=secret.hex(),
        certificate=certificate.decode(),
        ca=ca.decode(),
        origin=identity.origin,
        mdns=identity.mdns,
    )
    passphrase = new_passphrase(passphrase_file) if is_sealed(origin / "ca.key") else None
    write_key_file(path, key, passphrase)


def renew_key(path: Path, passphrase_file: Path | None) -> None:
    """Renew the certificate inside an operator's or publisher's key file, at the origin.

    Raises:
        Unavailable, Refused: the origin does not answer, or says no; the file is as it was.
    """
    key = open_key(path, passphrase_file)
    request = make_request(key.tls_seed)

    async def work(origin: Origin) -> None:
        certificate = await origin.post("/v1/renew", request)
        replace_certificate(path, checked_renewal(key, certificate, Clock().unix()))
        say(f"renewed {key.role} {key.name}")

    with_origin(key, work)

"""`firedoor publish`: from a folder to signed metadata at the origin.

Validators see the content before anything is signed. What endpoints will run is what was cut here:
pieces go up first, the signed list of releases last, so a failed publish publishes nothing.
"""

import datetime
import os
import shlex
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import checked_public
from firedoor.cli.client.origin import Origin, verified, with_origin
from firedoor.errors import Denied, FiredoorError, Malformed, Unavailable
from firedoor.halt.scope import ScopeKind, parse_scope
from firedoor.identity import FleetId, checked_name
from firedoor.pieces.handlers import checked_handler
from firedoor.pieces.manifest import (
    FileEntry,
    Manifest,
    Piece,
    content_digest,
    encode_manifest,
    facts_of,
    manifest_id,
)
from firedoor.runtime.keys.fleet_folder import RELEASES_DAYS
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.settings import check_command
from firedoor.runtime.storage.tree import read_tree
from firedoor.trust.repository import add_release, is_publisher, signed_by
from firedoor.wire.codec import digests_of, pack

_VALIDATE_SPAN_S = 600


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What `publish` was asked for."""

    product: str
    version: str
    path: Path
    handler: str
    checks: tuple[str, ...]
    validators: tuple[str, ...]
    is_critical_fix: bool
    floor: str = ""
    controller: str = ""


def publish_release(key: KeyFile, wish: PublishRequest) -> None:
    """Validate, cut, sign, upload, publish.

    Raises:
        Malformed: a bad name or tree, a failed validator, or a version that exists otherwise.
        Unavailable, Refused: the origin does not answer, or says no; nothing is published then.
    """
    if not is_publisher(key.role):
        raise Malformed(f"key {key.name}", wanted="a publisher's key", got=f"role {key.role}")
    _check(wish)
    for command in wish.validators:
        _validate(command, wish.path)
    with tempfile.TemporaryDirectory(prefix="firedoor-publish-") as folder:
        staging = Path(folder)
        files = read_tree(wish.path, lambda piece, stored: _stage(staging, piece, stored))
        with_origin(key, lambda origin: _publish(origin, key, wish, files, staging))


async def _publish(
    origin: Origin, key: KeyFile, wish: PublishRequest, files: tuple[FileEntry, ...], staging: Path
) -> None:
    content = content_digest(files)
    async with verified(origin, FleetId(key.fleet)) as catalogue:
        mine = [entry for entry in catalogue.releases if entry.product == wish.product]
        same = next((entry for entry in mine if entry.version == wish.version), None)
        if same is not None:
            _check_same(wish, content, await catalogue.manifest(same, origin.get))
            say(f"{wish.product} {wish.version} is published already, just so")
            return
        manifest = _manifest(wish, key, files, content, mine)
        data = encode_manifest(manifest)
        await _upload(origin, files, staging)
        metadata = _signed_list(catalogue, key, manifest, data)
    body = pack({"role": key.role, "metadata": metadata, "manifest": data})
    try:
        await origin.post("/v1/publish/release", body)
    except Denied as error:
        raise Denied(f"{error}; if somebody else published just now, run it again") from error
    size, count = sum(file.size for file in files), len(files)
    say(f"published {wish.product} {wish.version}: {count} file(s), {size:,} bytes")
    say(f"  manifest {manifest_id(data)}")
    say(f"  content  {content.hex()}")
    twins = [each.version for each in mine if each.content == content]
    if twins:
        say(f"  these are the bytes of {wish.product} {', '.join(twins)}")
    await _warn_of_halts(origin, manifest_id(data))


async def _warn_of_halts(origin: Origin, manifest: str) -> None:
    """Say it when what was just published is halted already, for its bytes are."""
    with suppress(FiredoorError):
        rows = (await origin.status()).status.releases
        level = max((row.level for row in rows if row.manifest == manifest), default=0)
        if level:
            say(f"WARNING: it is halted at level {level}: a halt covers it, or these bytes")


def _manifest(
    wish: PublishRequest,
    key: KeyFile,
    files: tuple[FileEntry, ...],
    content: bytes,
    mine: list[ReleaseEntry],
) -> Manifest:
    return Manifest(
        product=wish.product,
        version=wish.version,
        counter=_next_counter(mine),
        publisher=key.role.removeprefix("releases/"),
        handler=wish.handler,
        files=files,
        content=content,
        checks=wish.checks,
        is_critical_fix=wish.is_critical_fix,
        floor=_floor(wish, mine),
        controller=wish.controller,
    )


def _floor(wish: PublishRequest, mine: list[ReleaseEntry]) -> int:
    """The counter of the version that endpoints may not step below."""
    if not wish.floor:
        return 0
    found = [entry.counter for entry in mine if entry.version == wish.floor]
    if not found:
        raise Malformed("--floor", wanted="a version that is published", got=repr(wish.floor[:80]))
    return found[0]


def _signed_list(catalogue: Catalogue, key: KeyFile, manifest: Manifest, data: bytes) -> bytes:
    releases = Metadata[Targets].from_bytes(catalogue.role_file(key.role))
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RELEASES_DAYS)
    custom = asdict(facts_of(manifest))
    path = f"releases/{manifest.product}/{manifest.version}"
    moment = expires.replace(microsecond=0)
    add_release(releases, path, data, custom=custom, expires=moment)
    return signed_by(releases, [key.signing_seed]).to_bytes()


def _next_counter(mine: list[ReleaseEntry]) -> int:
    return 1 + max((entry.counter for entry in mine), default=0)


async def _upload(origin: Origin, files: tuple[FileEntry, ...], staging: Path) -> None:
    digests = list(dict.fromkeys(piece.digest for file in files for piece in file.pieces))
    answer = await origin.post("/v1/publish/missing", pack(digests))
    missing = digests_of(answer, what="missing pieces")
    if not set(missing) <= set(digests):
        raise Malformed("missing pieces", wanted="some of those offered", got="others")
    for digest in missing:
        stored = (staging / digest.hex()).read_bytes()
        await origin.post("/v1/publish/piece", stored, {"X-Piece": digest.hex()})


def _check(wish: PublishRequest) -> None:
    checked_name("product", wish.product)
    checked_name("version", wish.version)
    checked_handler("handler", wish.handler)
    if parse_scope(wish.product).kind is ScopeKind.EVERYTHING:
        raise Malformed("product", wanted="a name that is no scope", got="everything")
    if wish.controller:
        checked_public("--controller", wish.controller)
    for what, commands in (("--check", wish.checks), ("--validate", wish.validators)):
        for command in commands:
            check_command(what, command)


def _check_same(wish: PublishRequest, content: bytes, published: Manifest) -> None:
    what = f"{wish.product}=={wish.version}"
    if published.content != content:
        raise Malformed(what, wanted="the bytes that are published", got="other bytes")
    said = (published.checks, published.is_critical_fix, published.controller)
    if said != (wish.checks, wish.is_critical_fix, wish.controller):
        wanted = "the checks and flags that are published, or a new version"
        raise Malformed(what, wanted=wanted, got="others")


def _stage(staging: Path, piece: Piece, stored: bytes) -> None:
    (staging / piece.digest.hex()).write_bytes(stored)


def _validate(command: str, path: Path) -> None:
    words = [word.replace("{path}", str(path)) for word in shlex.split(command)]
    environment = {**os.environ, "FIREDOOR_CONTENT": str(path.resolve())}
    try:
        done = subprocess.run(  # noqa: S603  # the publisher's own command, without a shell
            words, env=environment, capture_output=True, timeout=_VALIDATE_SPAN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"validator {command}", why=str(error)[:200]) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout)[-300:].decode(errors="replace").strip()
        raise Malformed(
            f"validator {command}", wanted="exit code 0", got=f"{done.returncode}: {said}"
        )

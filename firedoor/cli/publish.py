"""`firedoor publish | list`: from a folder to signed metadata at the origin.

Validators see the content before anything is signed. What endpoints will run is what was cut here:
pieces go up first, the signed list of releases last, so a failed publish publishes nothing.
"""

import datetime
import os
import shlex
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from firedoor.cli.common import open_key, say, with_client
from firedoor.errors import Malformed, Unavailable
from firedoor.halt.scope import ScopeKind, parse_scope
from firedoor.identity import FleetId, Role, checked_name
from firedoor.limits import METADATA_BYTES_MAX, PIECES_MAX
from firedoor.pieces.manifest import (
    FileEntry,
    Manifest,
    Piece,
    content_digest,
    encode_manifest,
    manifest_id,
)
from firedoor.runtime.catalogue import Catalogue
from firedoor.runtime.clocks import Clock
from firedoor.runtime.fleet_folder import fleet_facts
from firedoor.runtime.key_files import KeyFile
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.runtime.tree import read_tree
from firedoor.runtime.trust_client import ReleaseEntry
from firedoor.trust.repository import add_release, signed_by
from firedoor.wire.codec import pack, unpack

# A publisher's list is signed anew at each publish; this bounds one that nobody publishes to.
_RELEASES_DAYS = 365

_VALIDATE_SPAN_S = 600

# The origin verifies and syncs every piece of a release before it answers: of 20 GiB, minutes.
_ANSWER_SPAN_S = 1800.0

_ANSWER_BYTES_MAX = PIECES_MAX * 34 + 16

Get = Callable[[str, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What `publish` was asked for."""

    product: str
    version: str
    path: Path
    handler: str
    checks: tuple[str, ...]
    validators: tuple[str, ...]
    is_critical_fix: bool


class Origin:
    """The origin as a publisher sees it."""

    def __init__(self, client: PeerClient, address: tuple[str, int]) -> None:
        self._client = client
        self._address = address

    async def get(self, path: str, limit: int) -> bytes:
        """A file of the origin; raises as `PeerClient.get`."""
        return await self._client.get(*self._address, path, role=Role.MIRROR, limit=limit)

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """The origin's answer; raises as `PeerClient.post`."""
        limit, span_s = _ANSWER_BYTES_MAX, _ANSWER_SPAN_S
        return await self._client.post(
            *self._address, path, body, limit=limit, headers=headers, span_s=span_s
        )


def publish_release(fleet: Path, wish: Wish, passphrase_file: Path | None) -> None:
    """Validate, cut, sign, upload, publish.

    Raises:
        Malformed: a bad name or tree, a failed validator, or a version that exists otherwise.
        Unavailable, Refused: the origin does not answer, or says no; nothing is published then.
    """
    _check_names(wish)
    for command in wish.validators:
        _validate(command, wish.path)
    key = open_key(_publisher_key(fleet), passphrase_file)
    with tempfile.TemporaryDirectory(prefix="firedoor-publish-") as folder:
        staging = Path(folder)
        files = read_tree(wish.path, lambda piece, stored: _stage(staging, piece, stored))
        _with_origin(fleet, key, lambda origin: _publish(origin, key, wish, files, staging))


def show_releases(fleet: Path, passphrase_file: Path | None) -> None:
    """Print every release in the origin's signed metadata, verified here."""
    key = open_key(fleet / "keys" / "operator.key", passphrase_file)
    with tempfile.TemporaryDirectory(prefix="firedoor-list-") as folder:
        staging = Path(folder)

        async def work(origin: Origin) -> None:
            for entry in (await _catalogue(origin, fleet, staging)).releases:
                content = str(entry.custom["content"])[:12]
                name = f"{entry.product} {entry.version}"
                say(f"{name}  manifest {entry.manifest[:12]}  content {content}")

        _with_origin(fleet, key, work)


async def _publish(
    origin: Origin, key: KeyFile, wish: Wish, files: tuple[FileEntry, ...], staging: Path
) -> None:
    catalogue = await _catalogue(origin, Path(), staging, key)
    content = content_digest(files)
    mine = [entry for entry in catalogue.releases if entry.product == wish.product]
    same = next((entry for entry in mine if entry.version == wish.version), None)
    if same is not None:
        if same.custom.get("content") != content.hex():
            what = f"{wish.product}=={wish.version}"
            raise Malformed(what, wanted="the bytes that are published", got="other bytes")
        say(f"{wish.product} {wish.version} is published already, with the same content")
        return
    manifest = _manifest(wish, key, files, content, mine)
    data = encode_manifest(manifest)
    await _upload(origin, files, staging)
    metadata = _signed_list(catalogue, key, manifest, data)
    body = pack({"role": key.role, "metadata": metadata, "manifest": data})
    await origin.post("/v1/publish/release", body)
    size = sum(file.size for file in files)
    say(f"published {wish.product} {wish.version}: {len(files)} files, {size:,} bytes")
    say(f"  manifest {manifest_id(data)}")
    say(f"  content  {content.hex()}")


def _manifest(
    wish: Wish,
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
    )


def _signed_list(catalogue: Catalogue, key: KeyFile, manifest: Manifest, data: bytes) -> bytes:
    releases = Metadata[Targets].from_bytes(catalogue.role_file(key.role))
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RELEASES_DAYS)
    custom = {
        "counter": manifest.counter,
        "content": manifest.content.hex(),
        "handler": manifest.handler,
        "critical_fix": manifest.is_critical_fix,
    }
    path = f"releases/{manifest.product}/{manifest.version}"
    moment = expires.replace(microsecond=0)
    add_release(releases, path, data, custom=custom, expires=moment)
    return signed_by(releases, [key.signing_seed]).to_bytes()


def _next_counter(mine: list[ReleaseEntry]) -> int:
    return 1 + max((int(entry.custom.get("counter", 0)) for entry in mine), default=0)


async def _upload(origin: Origin, files: tuple[FileEntry, ...], staging: Path) -> None:
    digests = list(dict.fromkeys(piece.digest for file in files for piece in file.pieces))
    answer = await origin.post("/v1/publish/missing", pack(digests))
    missing = unpack(answer, what="missing pieces", limit=_ANSWER_BYTES_MAX)
    if not isinstance(missing, list) or not set(missing) <= set(digests):
        raise Malformed("missing pieces", wanted="some of those offered", got="others")
    for digest in missing:
        stored = (staging / digest.hex()).read_bytes()
        await origin.post("/v1/publish/piece", stored, {"X-Piece": digest.hex()})


async def _catalogue(
    origin: Origin, fleet: Path, staging: Path, key: KeyFile | None = None
) -> Catalogue:
    root = await origin.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
    wanted = FleetId(key.fleet if key is not None else str(fleet_facts(fleet)["fleet"]))
    # The fleet's id is the digest of its first root: what the origin sends is checked against it.
    catalogue = Catalogue(staging / "trust", root=root, fleet=wanted, clock=Clock())
    await catalogue.refresh(origin.get)
    return catalogue


def _with_origin(fleet: Path, key: KeyFile, work: Callable[[Origin], Awaitable[None]]) -> None:
    address = str(fleet_facts(fleet)["origin"])
    if not address:
        raise Unavailable(str(fleet), why="it names no origin; give `firedoor init --origin`")
    host, port = split_address(address)
    with_client(key, lambda client: work(Origin(client, (host, port))))


def _publisher_key(fleet: Path) -> Path:
    found = sorted((fleet / "keys").glob("releases-*.key"))
    if not found:
        raise Unavailable(str(fleet / "keys"), why="no publisher's key (releases-*.key) here")
    return found[0]


def _check_names(wish: Wish) -> None:
    checked_name("product", wish.product)
    checked_name("version", wish.version)
    if wish.handler != "files":
        raise Malformed("handler", wanted="files", got=repr(wish.handler))
    if parse_scope(wish.product).kind is ScopeKind.EVERYTHING:
        raise Malformed("product", wanted="a name that is no scope", got="everything")


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

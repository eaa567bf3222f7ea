"""`firedoor list` and `firedoor show`: what signed metadata says, verified here."""

import json
from typing import Any

from firedoor.cli.client.answers import say
from firedoor.cli.client.origin import Origin, verified, with_origin
from firedoor.errors import Malformed, Unavailable
from firedoor.identity import FleetId
from firedoor.pieces.inventory import piece_map
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.terminal import plain


def show_releases(key: KeyFile, *, is_json: bool) -> None:
    """Print every release, by product and in the publisher's order.

    Raises:
        Unavailable, Refused: the origin does not answer, or its metadata does not verify.
    """

    async def work(origin: Origin) -> None:
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            entries = sorted(catalogue.releases, key=_order)
        if is_json:
            say(json.dumps([_row(entry) for entry in entries], indent=2))
            return
        for entry in entries:
            row = _row(entry)
            digests = f"manifest {row['manifest'][:12]}  content {row['content'][:12]}"
            say(f"{entry.product} {entry.version}  #{entry.counter}  {digests}")

    with_origin(key, work)


def show_release(key: KeyFile, release: str, *, is_json: bool, with_files: bool) -> None:
    """Print what one release is, as its signed manifest says.

    `release` is PRODUCT==VERSION, or PRODUCT for the newest.

    Raises:
        Malformed: no release can be called so.
        Unavailable, Refused: there is none, or as `show_releases`.
    """
    product, mark, version = release.partition("==")
    if not product or (mark and not version):
        raise Malformed("release", wanted="PRODUCT==VERSION or PRODUCT", got=repr(release[:80]))

    async def work(origin: Origin) -> None:
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            found = [
                entry
                for entry in catalogue.releases
                if entry.product == product and version in {"", entry.version}
            ]
            if not found:
                raise Unavailable(release, why="signed metadata lists no such release")
            entry = max(found, key=_order)
            manifest = await catalogue.manifest(entry, origin.get)
        table = _row(entry) | facts_of(entry.manifest, manifest)
        if is_json:
            say(json.dumps(table | {"files": _files(manifest)}, indent=2))
            return
        for line in lines_of(table):
            say(line)
        for file in _files(manifest) if with_files else ():
            target = f" -> {plain(file['link'])}" if file["link"] else ""
            name = f"{file['digest'][:12]} {plain(file['path'])}{target}"
            say(f"  {file['mode']} {file['size']:>12,} {name}")

    with_origin(key, work)


def facts_of(manifest_id: str, manifest: Manifest) -> dict[str, Any]:
    """What a person asks about a release, beside what the list says."""
    pieces = piece_map(manifest_id, manifest)
    return {
        "publisher": manifest.publisher,
        "checks": list(manifest.checks),
        "is_critical_fix": manifest.is_critical_fix,
        "file_count": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "payload_bytes": pieces.offsets[-1],
        "pieces": len(pieces.digests),
    }


def lines_of(table: dict[str, Any]) -> list[str]:
    """The same for a person."""
    name = f"{table['product']} {table['version']}"
    lines = [
        f"{name}, release {table['counter']} by {table['publisher']}",
        f"  handler    {table['handler']}" + (", critical fix" if table["is_critical_fix"] else ""),
        f"  files      {table['file_count']:,}, {table['bytes']:,} bytes",
        f"  to move    {table['payload_bytes']:,} bytes in {table['pieces']:,} piece(s)",
        f"  content    {table['content']}",
        f"  manifest   {table['manifest']}",
    ]
    return [plain(line) for line in lines] + [
        f"  check      {plain(check)}" for check in table["checks"] or ["none of its own"]
    ]


def _row(entry: ReleaseEntry) -> dict[str, Any]:
    return {
        "product": entry.product,
        "version": entry.version,
        "counter": entry.counter,
        "handler": entry.handler,
        "manifest": entry.manifest,
        "content": entry.content.hex(),
    }


def _files(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "path": file.path,
            "mode": f"{file.mode:o}",
            "size": file.size,
            "digest": file.digest.hex(),
            "link": file.link,
        }
        for file in manifest.files
    ]


def _order(entry: ReleaseEntry) -> tuple[str, int, str]:
    return entry.product, entry.counter, entry.version

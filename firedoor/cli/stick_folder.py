"""What lies in the folder that a person carries between an air-gapped site and the fleet.

    fleet                        the fleet's id
    metadata                     signed metadata, as a mirror serves it
    manifests/ pieces/           releases, by digest
    orders, beacon               signed records
    sites/MIRROR/outbound        what this mirror's site asks for
    sites/MIRROR/inbound         what has come for it

* Nothing in it is secret, and nothing is believed that does not prove itself: a stick that is lost
  or damaged costs a visit.
* Plain files and folders alone: a stick's file system has no links, no owners and no modes.
"""

import os
from collections.abc import Collection
from pathlib import Path

from firedoor.cli.order_file import FORMAT, OrderFile, read_orders
from firedoor.errors import Malformed, Refused, Unavailable
from firedoor.identity import FleetId
from firedoor.limits import ALL_METADATA_BYTES_MAX, MANIFEST_BYTES_MAX
from firedoor.pieces.manifest import Manifest, decode_manifest, manifest_id
from firedoor.runtime.files import sync_folder
from firedoor.runtime.piece_store import PieceStore
from firedoor.wire.codec import decode, encode
from firedoor.wire.stick import STICK_BYTES_MAX, Inbound, MetadataFiles, Outbound

# Releases leave so much free, for what the next visits add to leases, orders and receipts.
RESERVE_BYTES = 32 << 20


class Stick:
    """One folder. `store`: its pieces. A file that cannot be written or read is Unavailable."""

    def __init__(self, folder: Path, fleet: FleetId) -> None:
        """Open it, or begin it where there is none.

        Raises:
            Malformed: it is another fleet's, or a folder that holds something else.
            Unavailable: it cannot be written.
        """
        self._folder = folder
        self._fleet = fleet
        mark = folder / "fleet"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = mark.read_text("ascii") if mark.exists() else ""
            is_empty = not any(folder.iterdir())
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(str(folder), why=str(error)) from error
        if not held and not is_empty:
            raise Malformed(str(folder), wanted="an empty folder, or a stick", got="neither")
        if held and held != fleet:
            raise Malformed(str(folder), wanted=f"fleet {fleet[:12]}", got=repr(held[:12]))
        if not held:
            _put(mark, fleet.encode())
        self.store = PieceStore(folder / "pieces")

    # --- releases ------------------------------------------------------------------------------

    def metadata(self) -> MetadataFiles | None:
        """Signed metadata of the last visit at the fleet; None: there was none.

        Raises:
            Malformed, TooLarge: the file is damaged.
        """
        path = self._folder / "metadata"
        if not path.exists():
            return None
        return decode(MetadataFiles, _read(path), what=str(path), limit=ALL_METADATA_BYTES_MAX)

    def keep_metadata(self, files: MetadataFiles) -> None:
        """Hold exactly these."""
        _put(self._folder / "metadata", encode(files))

    def keep_manifest(self, digest: str, data: bytes) -> None:
        """Hold one more release's."""
        _put(self._folder / "manifests" / digest, data)

    def manifests(self) -> list[tuple[str, bytes, Manifest]]:
        """Digest, bytes and content of every manifest here that is whole."""
        found = []
        for path in sorted((self._folder / "manifests").glob("*")):
            data = _read(path)[: MANIFEST_BYTES_MAX + 1]
            try:
                manifest = decode_manifest(data)
            except Refused:
                continue  # Half-written, or damaged: the next visit at the fleet brings it anew.
            if manifest_id(data) == path.name:
                found.append((path.name, data, manifest))
        return found

    def keep_only(self, manifests: Collection[str]) -> None:
        """Forget all other releases, so that a stick does not fill up."""
        for path in (self._folder / "manifests").glob("*"):
            if path.name not in manifests:
                path.unlink(missing_ok=True)
        held = {
            piece.digest.hex()
            for _, _, manifest in self.manifests()
            for file in manifest.files
            for piece in file.pieces
        }
        for path in (self._folder / "pieces").glob("*/*"):
            if f"{path.parent.name}{path.name}" not in held:
                path.unlink(missing_ok=True)

    # --- records -------------------------------------------------------------------------------

    def orders(self) -> tuple[bytes, ...]:
        """Every order that it has met; raises as `read_orders`."""
        path = self._folder / "orders"
        return read_orders(path, self._fleet).records if path.exists() else ()

    def keep_orders(self, records: tuple[bytes, ...]) -> None:
        """Hold exactly these."""
        _put(self._folder / "orders", encode(OrderFile(FORMAT, self._fleet, records)))

    def beacon(self) -> bytes:
        """That of the last visit at the fleet; empty: none."""
        path = self._folder / "beacon"
        return _read(path) if path.exists() else b""

    def keep_beacon(self, record: bytes) -> None:
        """Hold this one."""
        _put(self._folder / "beacon", record)

    # --- sites ---------------------------------------------------------------------------------

    def keep_outbound(self, outbound: Outbound) -> None:
        """This is what the site of a mirror asks for now."""
        _put(self._folder / "sites" / outbound.mirror / "outbound", encode(outbound))

    def all_outbound(self) -> list[Outbound]:
        """What every site that it was at asks for.

        Raises:
            Malformed: a file is damaged; it is named.
        """
        paths = sorted((self._folder / "sites").glob("*/outbound"))
        return [
            decode(Outbound, _read(path), what=str(path), limit=STICK_BYTES_MAX) for path in paths
        ]

    def keep_inbound(self, mirror: str, inbound: Inbound) -> None:
        """This is what has come for a site; it stays until more comes, for a visit may fail."""
        _put(self._folder / "sites" / mirror / "inbound", encode(inbound))

    def inbound(self, mirror: str) -> Inbound | None:
        """What has come for a site; None: nothing.

        Raises:
            Malformed: the file is damaged.
        """
        path = self._folder / "sites" / mirror / "inbound"
        if not path.exists():
            return None
        return decode(Inbound, _read(path), what=str(path), limit=STICK_BYTES_MAX)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or str(error)) from error


def _put(path: Path, data: bytes) -> None:
    """As `durable_write`, without a mode: a stick's file system refuses most of them."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or str(error)) from error

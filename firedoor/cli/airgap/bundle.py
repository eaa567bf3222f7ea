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

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from re import Pattern

from firedoor.cli.orders.order_file import FORMAT, ORDER_FILE_BYTES_MAX, OrderFile, orders_in
from firedoor.errors import Malformed, Refused, Unavailable
from firedoor.identity import PEER_ID, FleetId
from firedoor.limits import ALL_METADATA_BYTES_MAX, FRAME_BYTES_MAX, MANIFEST_BYTES_MAX
from firedoor.pieces.manifest import Manifest, decode_manifest, manifest_id
from firedoor.runtime.files import PUBLIC_MODE
from firedoor.runtime.folders import below, open_folder
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.wire.codec import decode, encode
from firedoor.wire.stick import STICK_BYTES_MAX, Inbound, MetadataFiles, Outbound

# Releases leave so much free, for what the next visits add to leases, orders and receipts.
RESERVE_BYTES = 32 << 20

MANIFEST_NAME = re.compile(r"[0-9a-f]{64}")

# A fleet's id, and nothing else.
_MARK_BYTES_MAX = 64

# Releases on one stick, and sites that it was at: far more than a person carries to and fro.
_MANIFESTS_MAX = 4096
_SITES_MAX = 1024


class Stick:
    """One folder. `store`: its pieces. A file that cannot be written or read is Unavailable.

    Anybody may have had the stick: no link in it is followed, only regular files of a bounded size
    are read, and only names of our own shape are removed (runtime/folders.py).
    """

    def __init__(self, folder: Path, fleet: FleetId) -> None:
        """Open it, or begin it where there is none.

        Raises:
            Malformed: it is another fleet's, or a folder that holds something else.
            Unavailable: it cannot be written.
        """
        self._fleet = fleet
        with _in_words(folder):
            self._folder = open_folder(folder, is_made=True)
            held = self._read("fleet", _MARK_BYTES_MAX)
            if held is None and not self._folder.is_empty():
                raise Malformed(str(folder), wanted="an empty folder, or a stick", got="neither")
            if held is not None and held != fleet.encode():
                # What stands there is somebody's text, and not shown.
                wanted = f"the mark of fleet {fleet[:12]}"
                raise Malformed(str(folder / "fleet"), wanted=wanted, got="another")
            if held is None:
                self._put("fleet", fleet.encode())
        self.store = PieceStore(folder / "pieces", mode=PUBLIC_MODE, is_foreign=True)

    # --- releases ------------------------------------------------------------------------------

    def metadata(self) -> MetadataFiles | None:
        """Signed metadata of the last visit at the fleet; None: there was none.

        Raises:
            Malformed, TooLarge: the file is damaged.
        """
        data = self._read("metadata", ALL_METADATA_BYTES_MAX)
        if data is None:
            return None
        what = str(self._folder.path / "metadata")
        return decode(MetadataFiles, data, what=what, limit=ALL_METADATA_BYTES_MAX)

    def keep_metadata(self, files: MetadataFiles) -> None:
        """Hold exactly these."""
        self._put("metadata", encode(files))

    def keep_manifest(self, digest: str, data: bytes) -> None:
        """Hold one more release's."""
        self._put(digest, data, "manifests")

    def manifests(self, known: Collection[str]) -> Iterator[tuple[str, bytes, Manifest]]:
        """Digest, bytes and content of those of `known` that are here whole, one after the other.

        Whoever had the stick may have put any number of large ones there.
        """
        names = [each for each in self._names("manifests", MANIFEST_NAME) if each in known]
        for digest in names[:_MANIFESTS_MAX]:
            try:
                data = self._read(digest, MANIFEST_BYTES_MAX, "manifests")
                # Its digest first: what nobody has signed for costs no decoding.
                if data is None or manifest_id(data) != digest:
                    continue
                manifest = decode_manifest(data)
            except (Refused, Unavailable):
                continue  # Half-written, or damaged: the next visit at the fleet brings it anew.
            yield digest, data, manifest

    def keep_only(self, manifests: Collection[str]) -> None:
        """Forget all other releases, so that a stick does not fill up."""
        gone = [each for each in self._names("manifests", MANIFEST_NAME) if each not in manifests]
        with _in_words(self._folder.path), below(self._folder, "manifests") as folder:
            for name in gone if folder is not None else ():
                assert folder is not None
                folder.remove(name)
        held = {
            piece.digest.hex()
            for _, _, manifest in self.manifests(manifests)
            for file in manifest.files
            for piece in file.pieces
        }
        with _in_words(self._folder.path / "pieces"):
            self.store.keep_only(held)

    # --- records -------------------------------------------------------------------------------

    def orders(self) -> tuple[bytes, ...]:
        """Every order that it has met; raises as `orders_in`."""
        data = self._read("orders", ORDER_FILE_BYTES_MAX)
        if data is None:
            return ()
        return orders_in(data, self._fleet, what=str(self._folder.path / "orders")).records

    def keep_orders(self, records: tuple[bytes, ...]) -> None:
        """Hold exactly these."""
        self._put("orders", encode(OrderFile(FORMAT, self._fleet, records)))

    def beacon(self) -> bytes:
        """That of the last visit at the fleet; empty: none."""
        return self._read("beacon", FRAME_BYTES_MAX) or b""

    def keep_beacon(self, record: bytes) -> None:
        """Hold this one."""
        self._put("beacon", record)

    # --- sites ---------------------------------------------------------------------------------

    def keep_outbound(self, outbound: Outbound) -> None:
        """This is what the site of a mirror asks for now."""
        self._put("outbound", encode(outbound), "sites", outbound.mirror)

    def all_outbound(self) -> list[Outbound]:
        """What every site that it was at asks for.

        Raises:
            Malformed: a file is damaged; it is named.
        """
        found = []
        for mirror in self._names("sites", PEER_ID)[:_SITES_MAX]:
            data = self._read("outbound", STICK_BYTES_MAX, "sites", mirror)
            if data is not None:
                what = str(self._folder.path / "sites" / mirror / "outbound")
                found.append(decode(Outbound, data, what=what, limit=STICK_BYTES_MAX))
        return found

    def keep_inbound(self, mirror: str, inbound: Inbound) -> None:
        """This is what has come for a site; it stays until more comes, for a visit may fail."""
        self._put("inbound", encode(inbound), "sites", mirror)

    def inbound(self, mirror: str) -> Inbound | None:
        """What has come for a site; None: nothing.

        Raises:
            Malformed: the file is damaged.
        """
        data = self._read("inbound", STICK_BYTES_MAX, "sites", mirror)
        if data is None:
            return None
        what = str(self._folder.path / "sites" / mirror / "inbound")
        return decode(Inbound, data, what=what, limit=STICK_BYTES_MAX)

    # --- files ---------------------------------------------------------------------------------

    def _read(self, name: str, limit: int, *folders: str) -> bytes | None:
        where = self._folder.path.joinpath(*folders)
        with _in_words(where / name), below(self._folder, *folders) as folder:
            return folder.read(name, limit) if folder is not None else None

    def _put(self, name: str, data: bytes, *folders: str) -> None:
        where = self._folder.path.joinpath(*folders)
        with _in_words(where / name), below(self._folder, *folders, is_made=True) as folder:
            assert folder is not None
            folder.write(name, data, PUBLIC_MODE)

    def _names(self, folder: str, pattern: Pattern[str]) -> list[str]:
        with _in_words(self._folder.path / folder), below(self._folder, folder) as opened:
            return sorted(opened.names(pattern)) if opened is not None else []


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the disk refuses, as Unavailable with the path that it was about."""
    try:
        yield
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or str(error)) from error

"""What lies in the folder that a person carries between an air-gapped site and the fleet.

    fleet                        the fleet's id
    metadata/ pieces/            as in a mirror's state: verified when written and when read
    orders, beacon               signed records
    sites/MIRROR/outbound        what this mirror's site asks for
    sites/MIRROR/inbound         what has come for it

Nothing in it is secret, and nothing is believed that does not prove itself: a stick that is lost
or bent costs a visit.
"""

from pathlib import Path

from firedoor.cli.order_file import FORMAT, OrderFile, read_orders
from firedoor.errors import Malformed, Unavailable
from firedoor.identity import FleetId
from firedoor.runtime.catalogue import Catalogue
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write
from firedoor.runtime.piece_store import PieceStore
from firedoor.runtime.trust_client import fleet_of
from firedoor.wire.codec import decode, encode
from firedoor.wire.stick import STICK_BYTES_MAX, Inbound, Outbound


class Stick:
    """One folder. `store`: its pieces."""

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
            durable_write(mark, fleet.encode())
        self.store = PieceStore(folder / "pieces")

    def catalogue(self, root: bytes | None = None) -> Catalogue:
        """Signed metadata and manifests; `root`: the fleet's first, its digest is the fleet's id.

        Raises:
            Unavailable: there is neither a root nor one on the stick.
            Malformed: it is none, or another fleet's.
        """
        path = self._folder / "metadata" / "served" / "1.root.json"
        if root is None and path.exists():
            root = path.read_bytes()
        if root is None:
            raise Unavailable(str(self._folder), why="it has not been at the fleet yet")
        if fleet_of(root) != self._fleet:
            raise Malformed(
                "root.json", wanted=f"fleet {self._fleet[:12]}", got=fleet_of(root)[:12]
            )
        folder = self._folder / "metadata"
        catalogue = Catalogue(folder, root=root, fleet=self._fleet, clock=Clock())
        catalogue.load()
        return catalogue

    # --- records -------------------------------------------------------------------------------

    def orders(self) -> tuple[bytes, ...]:
        """Every order that it has met; raises as `read_orders`."""
        path = self._folder / "orders"
        return read_orders(path, self._fleet).records if path.exists() else ()

    def keep_orders(self, records: tuple[bytes, ...]) -> None:
        """Hold exactly these."""
        durable_write(self._folder / "orders", encode(OrderFile(FORMAT, self._fleet, records)))

    def beacon(self) -> bytes:
        """The latest of where it was at the fleet; empty: none."""
        path = self._folder / "beacon"
        return path.read_bytes() if path.exists() else b""

    def keep_beacon(self, record: bytes) -> None:
        """Hold this one."""
        durable_write(self._folder / "beacon", record)

    # --- sites ---------------------------------------------------------------------------------

    def keep_outbound(self, outbound: Outbound) -> None:
        """This is what the site of a mirror asks for now."""
        folder = self._folder / "sites" / outbound.mirror
        folder.mkdir(parents=True, exist_ok=True)
        durable_write(folder / "outbound", encode(outbound))

    def all_outbound(self) -> list[Outbound]:
        """What every site that it was at asks for.

        Raises:
            Malformed: a file is damaged; it is named.
        """
        paths = sorted((self._folder / "sites").glob("*/outbound"))
        return [
            decode(Outbound, path.read_bytes(), what=str(path), limit=STICK_BYTES_MAX)
            for path in paths
        ]

    def keep_inbound(self, mirror: str, inbound: Inbound) -> None:
        """This is what has come for a site; it stays until more comes, for a visit may fail."""
        durable_write(self._folder / "sites" / mirror / "inbound", encode(inbound))

    def inbound(self, mirror: str) -> Inbound | None:
        """What has come for a site; None: nothing.

        Raises:
            Malformed: the file is damaged.
        """
        path = self._folder / "sites" / mirror / "inbound"
        if not path.exists():
            return None
        return decode(Inbound, path.read_bytes(), what=str(path), limit=STICK_BYTES_MAX)

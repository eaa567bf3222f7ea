"""The origin as an operator or a publisher sees it from the command line."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.order_delivery import collect_orders
from firedoor.cli.client.peer_status import Answer
from firedoor.cli.client.requests import status_at, with_client
from firedoor.errors import FiredoorError, Malformed, Unavailable
from firedoor.identity import FleetId, Role
from firedoor.limits import METADATA_BYTES_MAX, PIECES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import id_of_request, make_request
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.keys.operator_proof import HEADER, Request, proof_of
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address

ANSWER_BYTES_MAX = PIECES_MAX * 34 + 16

# The origin verifies and syncs every piece of a release before it answers: of 20 GiB, minutes.
_ANSWER_SPAN_S = 1800.0


class Origin:
    """One origin, over one client. `key`: whose signature proves what only operators may ask."""

    def __init__(
        self, client: PeerClient, address: tuple[str, int], key: KeyFile | None = None
    ) -> None:
        self._client = client
        self._address = address
        self._key = key

    async def get(self, path: str, limit: int) -> bytes:
        """A file of the origin; raises as `PeerClient.get`."""
        return await self._client.get(*self._address, path, role=Role.MIRROR, limit=limit)

    async def status(self) -> Answer:
        """What the origin says of itself; raises as `status_at`."""
        return await status_at(self._client, self._address)

    async def orders(self) -> list[bytes]:
        """Every order that it offers, none verified; raises as `collect_orders`."""
        return await collect_orders(self._client, self._address, roles=(Role.MIRROR,))

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """The origin's answer; raises as `PeerClient.post`."""
        limit, span_s = ANSWER_BYTES_MAX, _ANSWER_SPAN_S
        proof = {HEADER: self._proof(path, body)} if self._key is not None else {}
        return await self._client.post(
            *self._address, path, body, limit=limit, headers=proof | (headers or {}), span_s=span_s
        )

    def _proof(self, path: str, body: bytes) -> str:
        assert self._key is not None
        asker = id_of_request(make_request(self._key.tls_seed))
        request = Request(path, asker, Clock().unix(), body)
        return proof_of(request, FleetId(self._key.fleet), self._key.signing_seed)


@asynccontextmanager
async def verified(origin: Origin, fleet: FleetId) -> AsyncIterator[Catalogue]:
    """The origin's signed metadata, verified here from the fleet's first root on.

    Raises:
        Untrusted: it is another fleet's, or does not verify.
        Unavailable: the origin does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="firedoor-trust-") as folder:
        root = await origin.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
        # The fleet's id is the digest of its first root: what the origin sends is checked by it.
        catalogue = Catalogue(Path(folder), root=root, fleet=fleet, clock=Clock())
        try:
            await catalogue.refresh(origin.get)
        except FiredoorError:
            # One publisher's list that cannot be read must not keep the others' people from work.
            if catalogue.authority is None or not catalogue.authority.is_fresh:
                raise
        yield catalogue


def with_origin(key: KeyFile, work: Callable[[Origin], Awaitable[None]]) -> None:
    """Run `work` with the origin that the key file names.

    Raises:
        Unavailable: it names none, or the origin does not answer.
    """
    address = origin_of(key)
    with_client(key, lambda client: work(Origin(client, address, key)))


def origin_of(key: KeyFile) -> tuple[str, int]:
    """Where the origin that the key file names listens.

    Raises:
        Unavailable: it names none.
    """
    if not key.origin:
        raise Unavailable(
            f"key {key.name}", why="it names no origin; give `firedoor init --origin`"
        )
    return split_address(key.origin)


def chosen_key(
    fleet: Path | None, key: Path | None, pattern: str, passphrase_file: Path | None
) -> KeyFile:
    """The key in a file of its own, or the one in a fleet's folder that fits `pattern`.

    Raises:
        Malformed: neither is given, or more than one fits.
        Unavailable: none fits.
    """
    if key is not None:
        return open_key(key, passphrase_file)
    if fleet is None:
        raise Malformed(
            "--key", wanted="a key file, or --fleet with the fleet's folder", got="none"
        )
    found = sorted((fleet / "keys").glob(pattern))
    # A key that waits for its rotation signs nothing yet.
    found = [path for path in found if not path.name.endswith(".new.key")]
    if not found:
        raise Unavailable(str(fleet / "keys"), why=f"no {pattern} here; name one with --key")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise Malformed("--key", wanted=f"one of {names}", got="none")
    return open_key(found[0], passphrase_file)

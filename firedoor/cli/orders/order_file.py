"""`firedoor order export` and `import`: orders on a stick, for where no network goes.

Orders are public and prove themselves, so the file needs no seal: whoever takes it in checks each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.order_delivery import collect_orders, give
from firedoor.cli.client.peer_search import peers_to_try
from firedoor.cli.client.requests import with_client
from firedoor.errors import Denied, FiredoorError, Malformed, Unavailable
from firedoor.halt.envelope import Envelope, id_of
from firedoor.identity import FleetId
from firedoor.limits import ORDER_BYTES_MAX, ORDERS_MAX
from firedoor.runtime.files import PUBLIC_MODE, durable_write
from firedoor.runtime.folders import read_named
from firedoor.runtime.network.first_answer import first_answer
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.wire.codec import decode, encode
from firedoor.wire.messages import Record

FORMAT = "firedoor-orders-1"

_FIND_S = 2.0
ORDER_FILE_BYTES_MAX = ORDERS_MAX * (ORDER_BYTES_MAX + 8)


@dataclass(frozen=True, slots=True)
class OrderFile:
    """What lies on the stick."""

    format: Annotated[str, Meta(max_length=40)]
    fleet: Annotated[str, Meta(max_length=64)]
    records: Annotated[tuple[Record, ...], Meta(max_length=ORDERS_MAX)]


def export_orders(file: Path, key_file: tuple[Path, Path | None], to: list[str]) -> None:
    """Write every order that a peer offers to a new file.

    Raises:
        Malformed: the file exists.
        Unavailable: no peer answers.
    """
    if file.exists():
        raise Malformed(str(file), wanted="a new file", got="one that exists")
    key = open_key(*key_file)

    async def work(client: PeerClient) -> list[bytes]:
        return await first_answer(
            await peers_to_try(client, key, to, _FIND_S),
            lambda address: collect_orders(client, address),
            nobody=Unavailable("no peer", why="none is known"),
            passed_over=FiredoorError,
        )

    records = with_client(key, work)
    durable_write(file, encode(OrderFile(FORMAT, key.fleet, tuple(records))), PUBLIC_MODE)
    say(f"{len(records)} order(s) in {file}")


def import_orders(file: Path, key_file: tuple[Path, Path | None], to: list[str]) -> None:
    """Hand every order of a file to one peer, which checks each and passes it on.

    Raises:
        Malformed: no such file of this fleet.
        Denied: the peer refused some of them; the others are recorded.
        Unavailable: no peer answers.
    """
    key = open_key(*key_file)
    found = read_orders(file, FleetId(key.fleet))

    async def work(client: PeerClient) -> list[str]:
        address = (await peers_to_try(client, key, to, _FIND_S))[0]
        refusals = []
        for record in found.records:
            envelope = decode(Envelope, record, what=str(file), limit=ORDER_BYTES_MAX)
            order_id = id_of(FleetId(key.fleet), envelope)
            try:
                await give(client, address, record, order_id)
            except Denied as error:
                refusals.append(f"{order_id.hex()[:12]}: {error}")
        return refusals

    refusals = with_client(key, work)
    say(f"{len(found.records) - len(refusals)} order(s) recorded")
    if refusals:
        raise Denied(f"{len(refusals)} order(s) were refused: {'; '.join(refusals[:3])}")


def read_orders(file: Path, fleet: FleetId) -> OrderFile:
    """The orders in a file that a person has named.

    Raises:
        Unavailable, TooLarge: it cannot be read.
        Malformed: it is no such file, or another fleet's.
    """
    return orders_in(read_named(file, ORDER_FILE_BYTES_MAX), fleet, what=str(file))


def orders_in(data: bytes, fleet: FleetId, *, what: str) -> OrderFile:
    """The orders in the content of such a file; `what` names it.

    Raises:
        Malformed: it is no such file, or another fleet's.
    """
    found = decode(OrderFile, data, what=what, limit=ORDER_FILE_BYTES_MAX)
    if found.format != FORMAT:
        raise Malformed(what, wanted=FORMAT, got=repr(found.format))
    if found.fleet != fleet:
        raise Malformed(what, wanted=f"fleet {fleet[:12]}", got=repr(found.fleet[:12]))
    return found

"""What those who sign an order with others are shown: what it is about, by signed records.

An id says nothing to a person, and what a status says of it is one peer's word. So the record
itself is fetched from a peer, its signature is checked by the fleet's keys, and what it says is
shown. Nobody signs for what has no record, unless `--blind` asks for it.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress

from firedoor.cli.client.order_delivery import collect_orders
from firedoor.cli.client.origin import Origin, verified
from firedoor.errors import FiredoorError, Refused, Unavailable
from firedoor.halt.order import Ban, Halt, Order, Pass, Resume, Revoke, read_order
from firedoor.identity import FleetId
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.terminal import plain

Address = tuple[str, int]


class Evidence:
    """The records that peers at `addresses` hold, verified by the fleet's own keys."""

    def __init__(
        self, client: PeerClient, addresses: list[Address], fleet: FleetId, *, is_blind: bool
    ) -> None:
        self._client = client
        self._addresses = addresses
        self._fleet = fleet
        self._is_blind = is_blind
        self._orders: dict[bytes, Order] | None = None
        self._releases: list[ReleaseEntry] = []

    async def lines(self, ids: Iterable[bytes], verb: str) -> list[str]:
        """What each of these orders is, a few lines each, after `verb`.

        Raises:
            Unavailable: no peer shows the record of one, and nobody asked to sign blind.
        """
        wanted = [*ids]
        held = await self._held(wanted)
        found: list[str] = []
        for each in wanted:
            order = held.get(each)
            if order is None and not self._is_blind:
                why = "no peer shows its signed record; --blind signs for the id alone"
                raise Unavailable(f"order {each.hex()[:16]}", why=why)
            found.append(f"{verb} {each.hex()}")
            found += (
                lines_of(order) if order is not None else ["  UNSEEN: no record of it was found"]
            )
        return found

    async def ids(self, kinds: Collection[str]) -> list[str]:
        """The ids of all orders of these kinds whose records are right, in hex."""
        held = await self._held(None)
        return sorted(order.id.hex() for order in held.values() if order.kind in kinds)

    async def releases(self, content: bytes) -> list[str]:
        """The releases of signed metadata that have this content.

        Raises:
            Unavailable: there are none, and nobody asked to sign blind.
        """
        await self._held(None)
        found = [each for each in self._releases if each.content == content]
        if not found and not self._is_blind:
            why = "signed metadata has no release of it; --blind signs for the digest alone"
            raise Unavailable(f"content {content.hex()[:16]}", why=why)
        return [f"  {each.product} {each.version}" for each in found] or ["  UNSEEN"]

    async def _held(self, wanted: list[bytes] | None) -> dict[bytes, Order]:
        if self._orders is None:
            self._orders = {}
            for address in self._addresses:
                with suppress(FiredoorError):
                    self._orders |= await self._at(address)
                # One peer has all that are recorded; another is asked for what it lacks.
                if self._orders and (wanted is None or set(wanted) <= set(self._orders)):
                    break
        return self._orders

    async def _at(self, address: Address) -> dict[bytes, Order]:
        found: dict[bytes, Order] = {}
        async with verified(Origin(self._client, address), self._fleet) as catalogue:
            self._releases = [*catalogue.releases]
            authority = catalogue.authority
        assert authority is not None
        for record in await collect_orders(self._client, address):
            with suppress(Refused):
                order = read_order(record, authority)
                found[order.id] = order
        return found


def lines_of(order: Order) -> list[str]:
    """What a signed order says, for a person."""
    match order:
        case Halt():
            what = f"{order.kind} of {plain(order.scope.text)} at level {order.level}"
        case Resume():
            what = f"resume of {', '.join(each.hex()[:12] for each in sorted(order.halts))}"
        case Revoke():
            what = f"revocation of key {plain(order.keyid)}"
        case Ban():
            what = f"ban of {plain(order.peer)}"
        case Pass():
            what = f"pass of content {order.content.hex()}"
    signers = ", ".join(sorted(each[:12] for each in order.keyids))
    # A scope may be the lesser part of what a halt stops.
    named = sorted(order.contents) if isinstance(order, Halt) else []
    return [
        f"  {what}",
        *(f"  and of whatever has content {each.hex()}" for each in named),
        f"  because: {plain(order.reason) or 'no reason given'}",
        f"  by {signers}",
    ]

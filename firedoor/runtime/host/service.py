"""What a peer answers on /v1: the server's questions, put to the host.

Status is for operators, mirrors and the peer itself: what a fleet runs, and what is halted in it,
is of use to a thief of one endpoint's certificate.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from firedoor import __version__
from firedoor.errors import Untrusted
from firedoor.halt.brake import Gate
from firedoor.halt.order import Ban, Halt, Pass, Resume, Revoke
from firedoor.identity import Peer, Role
from firedoor.runtime.host.host import Host
from firedoor.runtime.network.conversation import Conversation

Table = dict[str, Any]


class Service:
    """The `Backend` of network/peer_server.py over one host."""

    def __init__(self, host: Host, more: Callable[[], Table]) -> None:
        self._host = host
        self._more = more

    async def converse(self, peer: Peer, host: str, socket: Conversation) -> None:
        """Talk with a peer that dialled us, until it ends."""
        await self._host.connections.converse(peer, host=host, port=0, socket=socket, is_mine=False)

    def pieces(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        """The digests in a range of a release's payload; raises as `Node.serve`."""
        return self._host.node.serve(peer, manifest, start, end)

    def refuses(self, peer: Peer) -> bool:
        """Whether this peer is banned."""
        return self._host.node.refuses(peer.id)

    def permits(self, manifest: str) -> bool:
        """Whether the release may still leave this node."""
        return self._host.node.permits(Gate.SERVE, manifest)

    async def piece(self, digest: bytes) -> bytes | None:
        """One stored piece, verified at this reading."""
        return await asyncio.to_thread(self._host.store.get, digest)

    async def metadata(self, name: str) -> bytes | None:
        """One file of signed metadata."""
        return await asyncio.to_thread(self._host.catalogue.served, name)

    async def target(self, digest: str) -> bytes | None:
        """A manifest, unless its release may not be announced."""
        if not self.permits(digest):
            return None
        return await asyncio.to_thread(self._host.catalogue.manifest_bytes, digest)

    def sent(self, peer: Peer, count: int) -> None:
        """Account for bytes of pieces that went out."""
        del peer
        self._host.fetching.counters.sent += count

    def status(self, peer: Peer) -> Table:
        """What this peer has and does. Keys are only ever added (README.md lists them).

        Raises:
            Untrusted: the asker is an agent other than this one.
        """
        if peer.role is Role.AGENT and peer.id != self._host.settings.me:
            raise Untrusted("status", wanted="an operator, a mirror or this agent", got="an agent")
        return status_of(self._host) | self._more()


def status_of(host: Host) -> Table:
    """The part of a status that mirrors and agents share."""
    node, settings, counters = host.node, host.settings, host.fetching.counters
    return {
        "version": __version__,
        "id": settings.me,
        "role": settings.role.value,
        "site": settings.site,
        "ring": settings.ring,
        "is_origin": settings.is_origin,
        "is_reconciled": node.is_reconciled,
        "is_trust_fresh": bool(host.catalogue.authority and host.catalogue.authority.is_fresh),
        "releases": [_release(host, manifest) for manifest in sorted(node.releases)],
        "orders": [_order(host, order_id) for order_id in node.orders.ids()],
        "order_set": node.orders.digest().hex(),
        "lease": _lease(host),
        "refusals": dict(node.refusals),
        "skipped": asdict(host.connections.skipped),
        "peers": [
            {"id": connection.peer.id, "role": connection.peer.role.value, "host": connection.host}
            for connection in host.connections.open.values()
        ],
        "bytes": {**counters.received, "sent": counters.sent},
        "covered": {"bytes": counters.covered_bytes, "last_at": counters.covered_last_at},
        "now": host.clock.now(),
    }


def _lease(host: Host) -> Table:
    lease, now = host.node.lease, host.clock.now()
    return {
        "start_s": lease.terms.start,
        "move_s": lease.terms.move,
        "age_s": lease.age(now),
        "is_live": host.settings.is_origin or lease.is_live(lease.terms.start, now),
        "why": lease.why,
    }


def _release(host: Host, manifest: str) -> Table:
    subject = host.node.releases[manifest]
    have, total = host.node.progress_of(manifest)
    entry = host.catalogue.entry(manifest)
    return {
        "product": subject.product,
        "version": subject.version,
        "manifest": manifest,
        "content": subject.content.hex(),
        "counter": entry.counter if entry else 0,
        "level": host.node.level_of(manifest),
        "level_lowered": host.node.lowered_level_of(manifest),
        "pieces_have": have,
        "pieces_total": total,
    }


def _order(host: Host, order_id: bytes) -> Table:
    node = host.node
    order = node.orders.get(order_id)
    assert order is not None
    times = host.order_times.get(order_id.hex())
    table: Table = {
        "id": order_id.hex(),
        "kind": order.kind,
        "reason": order.reason,
        "issued_at": order.issued_at,
        "is_recorded": node.is_recorded(order_id),
        "is_named": node.orders.is_named(order_id),
        "closed_at": times.closed_at if times else None,
        "recorded_at": times.recorded_at if times else None,
    }
    if isinstance(order, Halt):
        text = order.scope.text
        in_force = any(halt.id == order_id for halt in node.orders.in_force())
        contents = sorted(each.hex() for each in order.contents)
        said = {"scope": text, "level": order.level, "contents": contents}
        return table | said | {"is_in_force": in_force}
    match order:
        case Resume():
            return table | {"halts": sorted(halt.hex() for halt in order.halts)}
        case Revoke():
            return table | {"keyid": order.keyid}
        case Ban():
            return table | {"peer": order.peer}
        case Pass():
            return table | {"content": order.content.hex()}

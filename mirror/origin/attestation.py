"""The origin's attestation of one halt: roster and receipts of the moment, signed."""

import asyncio
from collections.abc import Iterable

from firedoor.errors import Unavailable
from firedoor.halt.attestation import FORMAT, AttestationFile, Expected, statement_of
from firedoor.halt.order import Halt
from firedoor.halt.receipt import ReceiptBook
from firedoor.identity import PeerId
from firedoor.runtime.host.host import Host
from firedoor.units import UnixTime
from firedoor.wire.codec import encode
from firedoor.wire.messages import Report
from mirror.origin.origin import Origin

# What an endpoint last ran, as one line of an attestation.
_LAST_MAX = 200


async def attestation_of(
    host: Host,
    origin: Origin,
    book: ReceiptBook,
    *,
    order: bytes,
    reports: Iterable[tuple[Report, UnixTime]],
) -> bytes:
    """The attestation file of a halt or drill that is held here.

    Raises:
        Unavailable: no such halt is held here.
    """
    halt = host.node.orders.get(order)
    if not isinstance(halt, Halt):
        raise Unavailable(f"attestation of {order.hex()[:12]}", why="no such halt is held here")
    # While a halt spreads nothing here may wait for a disk, or for whoever is being enrolled.
    enrolled, roots = await asyncio.to_thread(lambda: (origin.enrolled(), origin.later_roots()))
    heard = {report.id: (report, seen) for report, seen in reports}
    expected = [
        _expected(each, heard.get(each.id))
        for each in enrolled
        if not host.node.refuses(PeerId(each.id))
    ]
    ids = {PeerId(each.id) for each in expected}
    said = sorted(book.of(order).items())
    receipts = [each.record for peer, each in said if peer in ids]
    clones = sorted(book.clones & ids)
    times = (_logged_at(host, order), host.clock.unix())
    statement = statement_of(
        order, times=times, expected=expected, receipts=receipts, clones=clones
    )
    file = AttestationFile(
        FORMAT,
        roots,
        host.catalogue.top_file("targets"),
        halt.record,
        origin.signer.sign(statement, "certificate"),
        tuple(expected),
        tuple(receipts),
        tuple(clones),
    )
    return encode(file)


def _expected(enrolled: Report, heard: tuple[Report, UnixTime] | None) -> Expected:
    if heard is None:
        return Expected(enrolled.id, enrolled.site, 0, enrolled.lease_s, "")
    report, seen = heard
    words = [
        f"{each.product} {each.version or 'nothing'} ({each.phase})" for each in report.products
    ]
    last = ", ".join(words)[:_LAST_MAX]
    return Expected(enrolled.id, enrolled.site, max(0, seen), report.lease_s, last)


def _logged_at(host: Host, order: bytes) -> int:
    """When this origin recorded the order, by its wall clock; 0: it has not yet.

    Of one that an earlier run recorded it is this run's start: later, so no bound is over too soon.
    """
    if not host.node.is_recorded(order):
        return 0
    times = host.order_times.get(order.hex())
    recorded = times.recorded_at if times is not None and times.recorded_at else host.started_at
    return max(0, int(host.clock.unix() - (host.clock.now() - recorded)))

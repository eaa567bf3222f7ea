"""What a mirror passes up of its endpoints' reports, and when.

* The newest report of each endpoint waits here, not in a queue: an endpoint that reports a hundred
  times in a second is passed on once.
* Each upstream is sent at most REPORTS_BYTES_PER_S, in small frames, and nothing while it has not
  taken what was sent before; so reports never fill a thin line, and never end a connection.
* An endpoint's certificate goes along once for each connection to an upstream.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from firedoor.identity import PeerId
from firedoor.limits import BULK_FRAME_BYTES, ROSTER_MAX
from firedoor.runtime.host.host import Host
from firedoor.wire.messages import Health, Report
from mirror.telemetry.reports import Endpoints, size_of

# Reports go up this often at most; the first after a pause goes at once.
PASS_EVERY_S = 1.0

# What reports may take of the line to one upstream: a thousand endpoints come up in four seconds,
# and on a thin line in as many as it needs, behind all else.
REPORTS_BYTES_PER_S = 192 * 1024


class Reporting:
    """The reports that wait for each upstream of one mirror."""

    def __init__(self, host: Host, endpoints: Endpoints) -> None:
        self._host = host
        self._endpoints = endpoints
        self._waiting: dict[PeerId, dict[PeerId, None]] = {}
        self._introduced: dict[PeerId, set[PeerId]] = {}
        self._notified = asyncio.Event()

    def connected(self, upstream: PeerId) -> None:
        """An upstream has come: it hears of everybody."""
        self._waiting[upstream] = dict.fromkeys(self._endpoints.all())
        self._introduced[upstream] = set()
        self._notified.set()

    def gone(self, upstream: PeerId) -> None:
        """A peer has gone; an upstream among them is told anew when it comes back."""
        self._waiting.pop(upstream, None)
        self._introduced.pop(upstream, None)

    def changed(self, peers: Iterable[PeerId]) -> None:
        """Something new is known of these endpoints."""
        news = dict.fromkeys(peers)
        for waiting in self._waiting.values():
            waiting.update(news)
        if news:
            self._notified.set()

    async def keep_passing(self) -> None:
        """Send what waits, for ever."""
        while True:
            await self._notified.wait()
            self._notified.clear()
            for upstream in [*self._waiting]:
                self._pass(upstream)
            await asyncio.sleep(PASS_EVERY_S)
            if any(self._waiting.values()):
                self._notified.set()

    def _pass(self, upstream: PeerId) -> None:
        if not self._host.is_idle(upstream):
            return
        waiting, introduced = self._waiting[upstream], self._introduced[upstream]
        room = REPORTS_BYTES_PER_S
        reports: list[Report] = []
        while waiting and room > 0:
            peer = next(iter(waiting))
            del waiting[peer]
            report = self._endpoints.report(peer, self._host.clock.unix())
            if report is None:
                continue
            if peer not in introduced:
                report = replace(report, certificate=self._endpoints.certificate(peer))
                introduced.add(peer)
            reports.append(report)
            room -= size_of(report)
        for part in in_parts(reports):
            if not self._host.send(upstream, Health(part)):
                # There was no room: they are said again, and introduced again.
                waiting.update(dict.fromkeys(PeerId(each.id) for each in part))
                introduced -= {PeerId(each.id) for each in part}


def in_parts(reports: Iterable[Report]) -> list[tuple[Report, ...]]:
    """The same reports in runs that each fit a frame of BULK_FRAME_BYTES."""
    parts: list[list[Report]] = []
    room = 0
    for report in reports:
        size = size_of(report)
        if size > room or len(parts[-1]) >= ROSTER_MAX:
            parts.append([])
            room = BULK_FRAME_BYTES
        parts[-1].append(report)
        room -= size
    return [tuple(part) for part in parts]

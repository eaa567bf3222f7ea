"""An endpoint that switches between two releases for as long as it may, with clocks that lie.

For partition.py. It overrides what the installer plans, never what it may do: each switch goes
through staging, the gates and the lease as any other.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agent import program as agent_program
from agent.decisions.effects import Release
from agent.decisions.lifecycle import Phase
from agent.decisions.plan import Offer
from agent.handlers.files import FilesHandler
from agent.install import installer as agent_installer
from agent.install.installer import Installer
from agent.install.offers import Offers
from firedoor.halt.brake import Gate
from firedoor.runtime.clocks import Clock
from firedoor.units import Instant, Span, UnixTime

Tell = Callable[[str, str, float], None]


class CrookedClock(Clock):
    """A wall clock that is `wall_s` ahead, and a boot-time clock that jumps now and then.

    `jumps`: a file with one byte for each jump by `jump_s` so far.
    """

    wall_s = 0
    jump_s = 0.0
    jumps = Path()

    def now(self) -> Instant:
        return Instant(super().now() + self.jump_s * self.jumps.stat().st_size)

    def unix(self) -> UnixTime:
        return UnixTime(super().unix() + self.wall_s)

    def unix_ms(self) -> int:
        return super().unix_ms() + 1000 * self.wall_s

    def divergence(self) -> Span:
        return Span(time.time() + self.wall_s - self.now())


class OtherOffers(Offers):
    """The best is always the other release that is whole here."""

    def best(self, also_failed: frozenset[bytes] = frozenset()) -> Offer | None:
        node, active = self._host.node, self._handler.active()
        for entry in self._host.catalogue.releases:
            is_other = entry.product == self._product and entry.manifest in node.releases
            is_other &= active is not None and active[1] != entry.manifest
            is_ready = is_other and node.is_whole(entry.manifest)
            if is_ready and node.permits(Gate.INSTALL, entry.manifest):
                content = node.releases[entry.manifest].content
                return Offer(entry.product, entry.version, entry.counter, entry.manifest, content)
        return super().best(also_failed)


class Restless(Installer):
    """The installer, which tells of its switches. `each_s`: so often it looks at its plan."""

    each_s = 0.25
    _switches = 0
    tell: Tell

    async def _round(self) -> Span | None:
        span = await super()._round()
        return None if span is None else min(span, Span(Restless.each_s))

    async def _activate(self, release: Release) -> Span | None:
        self._switches += 1
        SWITCHED.clear()
        span = await super()._activate(release)
        # It was switched; where doubt undid it, that was in the same turn of the loop.
        end = "activated" if self._install.phase is Phase.CHECKING else "undone"
        Restless.tell(end, f"{self._switches}", SWITCHED[0])
        return span


# When the last switch was made, by the machine's true clock.
SWITCHED: list[float] = []


class StampedHandler(FilesHandler):
    """Notes when it has switched."""

    def activate(self, version: str, manifest_id: str) -> None:
        super().activate(version, manifest_id)
        SWITCHED.append(time.clock_gettime(time.CLOCK_BOOTTIME))


def be_restless(run: Callable[[], None], tell: Tell, facts: dict[str, Any]) -> None:
    """Run an endpoint so, with the `wall_s`, `jump_s`, `jumps` and `each_s` of `facts`."""
    CrookedClock.wall_s, CrookedClock.jump_s = facts["wall_s"], facts["jump_s"]
    CrookedClock.jumps = Path(facts["jumps"])
    Restless.each_s = facts["each_s"]
    Restless.tell = staticmethod(tell)
    with (
        patch.object(agent_program, "Clock", CrookedClock),
        patch.object(agent_program, "Installer", Restless),
        patch.object(agent_installer, "Offers", OtherOffers),
        patch.object(agent_program, "FilesHandler", StampedHandler),
    ):
        run()

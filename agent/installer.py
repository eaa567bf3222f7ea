"""One product on this endpoint: from an offer in signed metadata to a checked, active version.

* The journal is written before each side effect, so a crash at any instant resumes to a phase that
  lifecycle.py names.
* Gate and switch run in one turn of the event loop: no order can be admitted between the last look
  at the brake and the switch. The gate is asked once more after it, and doubt undoes it.
* A release whose check failed steps back to the last good version, and its content digest is never
  installed again here.
* Without an unhalted version to go back to, what runs is left running and said so.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from agent.checks.command import run_check
from agent.handlers.files import FilesHandler
from agent.journal import Entry, Journal
from agent.lifecycle import Phase, advance
from agent.plan import Offer, choose
from firedoor.errors import FiredoorError, Halted, Unavailable
from firedoor.halt.brake import Gate
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.host import Host
from firedoor.runtime.logs import log
from firedoor.runtime.settings import ProductSettings
from firedoor.runtime.trust_client import ReleaseEntry
from firedoor.units import Span
from firedoor.wire.messages import ProductHealth

# Where nothing stirs a product, it still looks at its plan this often.
LOOK_AGAIN_S = 30.0

# After a failure, sooner: a mirror that restarts, a disk that was full.
TRY_AGAIN_S = 1.0

# How often a check is asked within its settle span.
CHECK_EVERY_S = 0.5


@dataclass(slots=True)
class Counts:
    """What the demo and status show of this product."""

    activations: int = 0
    activations_after_receipt: int = 0
    rolled_back: int = 0


class Installer:
    """The acting part of one product's lifecycle."""

    def __init__(
        self,
        host: Host,
        product: str,
        settings: ProductSettings,
        *,
        journal: Journal,
        handler: FilesHandler,
        on_change: Callable[[], None],
    ) -> None:
        self._host = host
        self._product = product
        self._settings = settings
        self._journal = journal
        self._handler = handler
        self._on_change = on_change
        self._stirred = asyncio.Event()
        self._detail = ""
        self._entry: Entry = journal.read(product)
        self.counts = Counts()

    def stir(self) -> None:
        """Something changed that may change the plan."""
        self._stirred.set()

    def health(self) -> ProductHealth:
        """What this endpoint has of the product now."""
        active = self._handler.active()
        version, manifest = active if active is not None else ("", "")
        phase = self._entry.phase.value
        return ProductHealth(self._product, version, manifest, phase, self._detail[:400])

    def table(self) -> dict[str, object]:
        """The product's part of `firedoor-agent status`."""
        health = self.health()
        return {
            "product": health.product,
            "version": health.version,
            "manifest": health.manifest,
            "phase": health.phase,
            "detail": health.detail,
            "activations": self.counts.activations,
            "activations_after_receipt": self.counts.activations_after_receipt,
            "rolled_back": self.counts.rolled_back,
        }

    async def run(self) -> None:
        """Follow the plan for ever; a failure is said and tried again later."""
        await self._recover()
        while True:
            self._stirred.clear()
            pause = LOOK_AGAIN_S
            try:
                await self._round()
            except (FiredoorError, OSError) as error:
                pause = TRY_AGAIN_S
                self._say(f"{type(error).__name__}: {error}")
                log("install-failed", level="warning", product=self._product, why=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stirred.wait()

    # --- one look at the plan ------------------------------------------------------------------

    async def _round(self) -> None:
        await self._obey()
        offer = self._choose()
        if offer is None:
            return
        entry = self._host.catalogue.entry(offer.manifest)
        if entry is None:
            return
        have, total = self._host.node.progress(offer.manifest)
        if total == 0 or have < total:
            if offer.manifest not in self._host.node.swarm.wanted():
                self._note(Phase.FETCHING, manifest=offer.manifest)
                await self._host.acquire(entry, self._host.getter(None))
            return
        await self._install(entry)

    def _choose(self) -> Offer | None:
        offers = [
            Offer(
                entry.product,
                entry.version,
                int(entry.custom.get("counter", 0)),
                entry.manifest,
                self._host.node.subjects[entry.manifest].content,
            )
            for entry in self._host.catalogue.releases
            if entry.product == self._product and entry.manifest in self._host.node.subjects
        ]
        active = self._handler.active()
        return choose(
            self._settings.version,
            offers,
            active=active[1] if active else None,
            failed=self._journal.failed(),
            permits=lambda offer: self._host.node.permits(Gate.ACTIVATE, offer.manifest),
        )

    # --- install, check, step back -------------------------------------------------------------

    async def _install(self, entry: ReleaseEntry) -> None:
        manifest = await self._host.catalogue.manifest(entry, self._host.getter(None))
        try:
            self._note(Phase.STAGING, manifest=entry.manifest)
            await asyncio.to_thread(self._stage, entry, manifest)
            self._note(Phase.STAGED)
            self._activate(entry)
        except Halted as halted:
            await asyncio.to_thread(self._handler.unstage, entry.version, entry.manifest)
            self._note(Phase.IDLE)
            self._say(str(halted))
            return
        await self._check(entry, manifest)

    def _stage(self, entry: ReleaseEntry, manifest: Manifest) -> None:
        self._handler.stage(
            manifest,
            entry.manifest,
            store_get=self._host.store.get,
            may_go_on=lambda: self._host.node.require(Gate.INSTALL, entry.manifest),
        )

    def _activate(self, entry: ReleaseEntry) -> None:
        active = self._handler.active()
        self._host.node.require(Gate.ACTIVATE, entry.manifest)
        self._note(Phase.ACTIVATING, manifest=entry.manifest, previous=active[1] if active else "")
        self._handler.activate(entry.version, entry.manifest)
        self.counts.activations += 1
        if not self._host.node.permits(Gate.ACTIVATE, entry.manifest):
            self.counts.activations_after_receipt += 1
            self._step_back(entry.manifest)
            raise Halted(entry.manifest[:12], level=Gate.ACTIVATE)
        log("activated", product=self._product, version=entry.version)
        self._note(Phase.CHECKING)

    async def _check(self, entry: ReleaseEntry, manifest: Manifest) -> None:
        commands = (*manifest.checks, *self._settings.check)
        failure = await self._first_failure(commands, entry)
        if self._level(entry.manifest) >= Gate.KEEP:
            await self._obey()
            return
        active = self._handler.active()
        if active is None or active[1] != entry.manifest:
            return  # An order took it back in the meantime.
        if failure is None:
            self._note(Phase.IDLE, good=entry.manifest)
            self._say("")
            log("release-well", product=self._product, version=entry.version)
            return
        log("release-unwell", product=self._product, version=entry.version, why=failure)
        # What fails goes back even when the disk can take no note of it.
        try:
            self._journal.add_failed(manifest.content)
        except Unavailable as error:
            log("journal-full", level="error", why=str(error), do="free disk space")
        is_back = self._step_back(entry.manifest)
        end = "was taken back" if is_back else "still runs, for there is nothing good to go back to"
        self._say(f"{entry.version} failed its check and {end}: {failure}")

    async def _first_failure(self, commands: tuple[str, ...], entry: ReleaseEntry) -> str | None:
        clock = self._host.clock
        until = clock.now() + self._settings.settle_s
        folder = self._handler.folder_of(entry.version, entry.manifest)
        while True:
            for command in commands:
                bound = Span(self._settings.check_timeout_s)
                result = await run_check(command, folder=folder, timeout=bound)
                if self._level(entry.manifest) >= Gate.KEEP:
                    return None
                if not result.is_well:
                    return f"{command}: {result.detail}"
            if clock.now() >= until or self._level(entry.manifest) >= Gate.KEEP:
                return None
            await asyncio.sleep(min(CHECK_EVERY_S, max(0.0, until - clock.now())))

    def _step_back(self, manifest: str) -> bool:
        """Go back to the last good version, if it may run; a step back needs no lease."""
        # A release that was well here until it was halted is `good` itself; then the one before it.
        good = self._entry.good if self._entry.good != manifest else self._entry.previous
        versions = {each: version for version, each in self._handler.staged()}
        subject = self._host.node.subjects.get(good)
        is_allowed = subject is None or self._host.node.brake.permits(Gate.ACTIVATE, subject)
        if not good or good == manifest or good not in versions or not is_allowed:
            # Nothing to go back to: what runs because nothing else can is left running.
            self._note(Phase.IDLE)
            return False
        with suppress(Unavailable):
            self._note(Phase.ROLLING_BACK, manifest=manifest)
        self._handler.activate(versions[good], good)
        self.counts.rolled_back += 1
        self._note(Phase.IDLE, manifest=good, good=good)
        log("rolled-back", product=self._product, version=versions[good])
        return True

    # --- orders --------------------------------------------------------------------------------

    async def _obey(self) -> None:
        """Enforce levels 3, 5 and 6 on what is already on the disk."""
        active = self._handler.active()
        for version, manifest in self._handler.staged():
            level = self._level(manifest)
            is_active = active is not None and active[1] == manifest
            if is_active and level >= Gate.KEEP:
                if not self._step_back(manifest):
                    self._say(f"{version} is halted at level {level}; nothing good to go back to")
                    continue
                is_active = False
            if is_active:
                continue
            if level >= Gate.KEEP:
                await asyncio.to_thread(self._handler.quarantine, version, manifest)
            elif level >= Gate.INSTALL and manifest != self._entry.good:
                await asyncio.to_thread(self._handler.unstage, version, manifest)

    def _level(self, manifest: str) -> int:
        subject = self._host.node.subjects.get(manifest)
        return self._host.node.brake.level(subject) if subject is not None else 0

    # --- the journal ---------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Resume what a crash interrupted: half-staged goes, half-checked is checked again."""
        phase, manifest = self._entry.phase, self._entry.manifest
        active = self._handler.active()
        if phase is Phase.STAGING:
            await asyncio.to_thread(self._handler.sweep)
        is_unproved = active is not None and active[1] == manifest != self._entry.good
        if phase in {Phase.ACTIVATING, Phase.CHECKING, Phase.ROLLING_BACK} and is_unproved:
            data = self._host.catalogue.manifest_bytes(manifest)
            if phase is Phase.ROLLING_BACK:
                self._step_back(manifest)
            elif data is not None and active is not None:
                held = self._host.catalogue.keep_manifest(manifest, data)
                log("check-resumed", product=self._product, version=held.version)
                entry = ReleaseEntry(self._product, active[0], manifest, len(data), {})
                self._note(Phase.CHECKING)
                await self._check(entry, held)
                return
        self._note(Phase.IDLE)

    def _note(
        self,
        phase: Phase,
        *,
        manifest: str | None = None,
        previous: str | None = None,
        good: str | None = None,
    ) -> None:
        old = self._entry
        self._entry = Entry(
            advance(old.phase, phase),
            old.manifest if manifest is None else manifest,
            old.previous if previous is None else previous,
            old.good if good is None else good,
        )
        self._journal.write(self._product, self._entry)
        self._on_change()

    def _say(self, detail: str) -> None:
        if detail != self._detail:
            self._detail = detail
            self._on_change()

"""One product on this endpoint: performs what decisions/install.py decides.

* The journal is written before each side effect; after a crash, or a step that the world refused,
  the life goes on by lifecycle.RECOVERS_TO.
* Gate and switch run in one turn of the event loop: no order can be admitted between the last look
  at the brake and the switch. The gate is asked once more after it, and doubt undoes it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from agent.checks.isolation import Checks
from agent.checks.trial import Outcome, Trial, hold_trial
from agent.decisions.effects import (
    Activate,
    Arm,
    Candidate,
    Check,
    Disarm,
    Download,
    InstallEffect,
    LookAgain,
    MarkFailed,
    Note,
    Quarantine,
    Release,
    Report,
    Sight,
    Stage,
    StepBack,
    Switched,
    Undo,
    Unstage,
)
from agent.decisions.install import Install
from agent.decisions.lifecycle import Phase
from agent.handlers.contract import Handler
from agent.install.journal import Journal
from agent.install.offers import Offers
from agent.install.product_row import Counts, row_of
from agent.install.switching import Arming
from agent.install.tombstones import Tombstones, admit_tombstones
from firedoor.dice import Dice
from firedoor.effects import Tell
from firedoor.errors import FiredoorError, NoRoom, Refused, Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.node.rosters import neighbourhood
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.host.host import Host
from firedoor.runtime.logs import log, log_facts
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.settings import ProductSettings
from firedoor.units import Span
from firedoor.wire.messages import ProductHealth


class Installer:
    """The acting part of the lifecycle of one `product`."""

    def __init__(
        self,
        host: Host,
        product: str,
        settings: ProductSettings,
        *,
        journal: Journal,
        handler: Handler,
        checks: Checks,
        on_change: Callable[[], None],
    ) -> None:
        self._host = host
        self.product = product
        self._checks = checks
        self._settings = settings
        self._journal = journal
        self._handler = handler
        self._on_change = on_change
        self._notified = asyncio.Event()
        self._ordered = asyncio.Event()
        self._detail = ""
        self._install = Install(
            product,
            journal.read(product),
            Dice(host.clock.seed()),
            host.clock.now(),
            switches_when_told=settings.switch == "when-told",
        )
        self._is_settled = False
        self._told: dict[str, tuple[int, int]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._tombstones = Tombstones(Path(settings.root).expanduser())
        self._offers = Offers(host, product, settings, journal=journal, handler=handler)
        self.arming = Arming()
        self.counts = Counts()

    def notify(self) -> None:
        """Something changed that may change the plan, or end a trial."""
        self._notified.set()
        self._ordered.set()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of this product is under way."""
        return self._install.phase is Phase.IDLE

    def health(self) -> ProductHealth:
        """What this endpoint has of the product now."""
        active = self._handler.active()
        version, manifest = active if active is not None else ("", "")
        phase = self._install.phase.value
        lowered = self._lowered(manifest) if manifest else ""
        details = (self._detail, lowered, self._tombstones.unread)
        detail = "; ".join(each for each in details if each)
        return ProductHealth(self.product, version, manifest, phase, detail[:400])

    def table(self) -> dict[str, object]:
        """The product's part of `firedoor-agent status`."""
        return row_of(self.health(), self.counts)

    async def run(self) -> None:
        """Follow the plan for ever; a failure is said and tried again later."""
        while True:
            self._notified.clear()
            try:
                span = await self._round()
            except (FiredoorError, OSError) as error:
                log("install-failed", level="warning", product=self.product, why=str(error))
                self._is_settled = False
                span = await self._perform(self._install.failed(error, self._host.clock.now()))
            # Without a span there is more to do at once; others have their turn all the same.
            pause = 0.0 if span is None else span
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._notified.wait()

    async def switch(self) -> str:
        """Switch to what is armed; the version. Raises as `Arming.switched`."""
        self.notify()
        return await self.arming.switched()

    def has_to_obey(self) -> bool:
        """Whether a halt asks for something here that is not done yet, and can be."""
        # Before it is settled, what lies here is not known to the brake yet.
        return not self._is_settled or self._install.has_to_obey(self._levels_alone())

    def staged(self) -> list[str]:
        """The manifests of what is on this disk."""
        return [manifest for _, manifest in self._handler.staged()]

    def keep_tombstones(self) -> None:
        """Have the halts in force lie beside the product; blocking."""
        self._tombstones.keep(
            self._host.node.orders.in_force(),
            self._host.node.is_known,
        )

    # --- one round -----------------------------------------------------------------------------

    async def _round(self) -> Span | None:
        """Do what is due; when to look again, None: at once."""
        await self._settle()
        waits = [await self._obey()]
        self._handler.check_root()
        for _, manifest in self._handler.staged():
            self._tell_guard(manifest)
        why = self._host.fetching.no_room.pop(self._install.entry.manifest, None)
        if why is not None:
            await self._perform(self._install.no_room(why, self._host.clock.now()))
        has_candidate = self._install.wants_candidate
        if has_candidate:
            await self._read_manifest()
        seen = self._look(with_candidate=has_candidate)
        waits.append(await self._perform(self._install.plan(seen)))
        return None if waits[-1] is None else min(each for each in waits if each is not None)

    async def _obey(self) -> Span | None:
        before = self._install.phase
        effects = self._install.obey(self._look())
        if self._install.phase is not before:
            # It recovered, which writes nothing.
            self._on_change()
        return await self._perform(effects)

    async def _settle(self) -> None:
        """Obey what the log says, then take in what lies here, before anything begins."""
        # A link would lead what follows to files of others; a mode alone keeps no halt waiting.
        # Four looks at names take less than the way to a thread and back.
        self._handler.check_root(links_alone=True)
        if self._is_settled:
            return
        await self._learn_what_is_here()
        # Nothing that lies beside the product may delay this.
        await self._obey()
        self._handler.check_root()
        await admit_tombstones(self._tombstones, self._host, self.product)
        try:
            await asyncio.to_thread(self._handler.sweep)
        except OSError as error:
            log("not-swept", level="error", why=str(error), do="remove versions/.half-*")
        self._is_settled = True

    async def _learn_what_is_here(self) -> None:
        """Make what is on this disk known to the brake, by name, content and every file."""
        for version, manifest in self._handler.staged():
            try:
                await self._host.learn_held(manifest)
                self._tell_guard(manifest)
            except Refused as error:
                log("manifest-damaged", level="warning", version=version, why=str(error))

    # --- what the machine sees -----------------------------------------------------------------

    def _look(self, *, with_candidate: bool = False) -> Sight:
        """The world at this instant; nothing is awaited, so that no order comes in between."""
        seen, node = self._levels_alone(), self._host.node
        active, phase = seen.active, self._install.phase
        is_judged = phase in {Phase.ACTIVATING, Phase.CHECKING, Phase.ROLLING_BACK}
        is_halted = active is not None and seen.level(active.manifest) >= Gate.KEEP
        is_checking = active is not None and phase is Phase.CHECKING
        return replace(
            seen,
            contents={each: node.releases[each].content for each in seen.levels},
            # The journal is asked only where something may step back: it may be damaged.
            may_run=frozenset(filter(self._may_run, seen.levels if is_judged or is_halted else ())),
            candidate=self._candidate() if with_candidate else None,
            hindrance=self._hindrance(active.manifest) if active and is_checking else "",
            neighbours=neighbourhood(node.sessions),
            is_told=self.arming.is_told,
        )

    def _levels_alone(self) -> Sight:
        """What is on the disk, and how far it is halted: enough to say what is left to obey."""
        node, active = self._host.node, self._handler.active()
        staged = tuple(Release(*each) for each in self._handler.staged())
        # What is being staged is not on the disk yet.
        meant = {each.manifest for each in staged} | {self._install.entry.manifest}
        known = meant & node.releases.keys()
        return Sight(
            self._host.clock.now(),
            Release(*active) if active is not None else None,
            staged,
            levels={each: node.level_of(each) for each in known},
        )

    def _candidate(self) -> Candidate | None:
        entry = self._best()
        if entry is None:
            return None
        node, manifest = self._host.node, entry.manifest
        is_whole = node.is_whole(manifest)
        may_start = self._host.may_start(Gate.INSTALL if is_whole else Gate.FETCH, manifest)
        return Candidate(
            Release(entry.version, manifest),
            is_whole,
            is_fetching=node.is_fetching(manifest),
            lease_error="" if may_start else str(node.no_lease()),
            hindrance=self._hindrance(manifest) if is_whole and may_start else "",
        )

    def _best(self) -> ReleaseEntry | None:
        offer = self._offers.best(self._install.failed_contents)
        return self._host.catalogue.entry(offer.manifest) if offer is not None else None

    async def _read_manifest(self) -> None:
        """Have the manifest of the release to move to, once all its pieces are here."""
        entry = self._best()
        while entry is not None and entry.manifest not in self._manifests:
            if not self._host.node.is_whole(entry.manifest):
                return
            manifest = await self._host.catalogue.manifest(entry, self._host.getter(None))
            # One is enough: what is staged next, checked next.
            self._manifests = {entry.manifest: manifest}
            entry = self._best()

    def _manifest_of(self, manifest: str) -> Manifest | None:
        held = self._manifests.get(manifest)
        return held if held is not None else self._offers.held(manifest)

    def _hindrance(self, manifest: str) -> str:
        """Why the checks of this release cannot run on this machine; empty: they can."""
        return self._checks.hindrance(self._asked(self._manifest_of(manifest)))

    def _asked(self, manifest: Manifest | None) -> tuple[str, ...]:
        """The checks of a release, its own and the administrator's."""
        return (*(manifest.checks if manifest is not None else ()), *self._settings.check)

    def _may_run(self, manifest: str) -> bool:
        subject = self._host.node.releases.get(manifest)
        if subject is None or not self._handler.capabilities.can_step_back:
            return False  # Nobody can say which orders cover it, or lead back to it.
        is_failed = (
            subject.content in self._journal.failed(self.product) or subject.counter < self._floor()
        )
        return not is_failed and self._host.node.may_run(manifest)

    def _floor(self) -> int:
        """The lowest counter that the publisher lets this product step back to."""
        listed = self._host.catalogue.releases
        floors = [each.floor for each in listed if each.product == self.product]
        return max([self._journal.floor_of(self.product), *floors])

    def _lowered(self, manifest: str) -> str:
        """Why a halt of what runs has a lower level here than the one that was signed."""
        signed = self._host.node.lowered_level_of(manifest)
        if not signed:
            return ""
        level = self._host.node.level_of(manifest)
        return (
            f"the halt of level {signed} is level {level} here: one key signed it, "
            "and a release with other bytes was newer when it came; two keys reach any release"
        )

    # --- what the machine decides --------------------------------------------------------------

    async def _perform(self, effects: list[InstallEffect]) -> Span | None:
        """Execute effects in order; the shortest span after which to look again.

        An effect that needs no other thread is executed without giving up this turn of the loop.
        """
        spans = []
        for effect in effects:
            if isinstance(effect, LookAgain):
                spans.append(effect.span)
            elif (span := await self._do(effect)) is not None:
                spans.append(span)
        return min(spans, default=None)

    async def _do(self, effect: InstallEffect) -> Span | None:  # noqa: C901, PLR0912  # one case an effect, flat
        match effect:
            case Note():
                self._note(effect)
            case Download(release):
                entry = self._host.catalogue.entry(release.manifest)
                if entry is not None:
                    await self._host.acquire(entry, self._host.getter(None))
            case Stage(release):
                await self._stage(release)
            case Activate(release):
                return await self._activate(release)
            case Undo(before):
                if before is None:
                    self._handler.deactivate()
                else:
                    self._handler.activate(before.version, before.manifest)
            case StepBack(release):
                self._handler.activate(release.version, release.manifest)
                self.counts.rolled_back += 1
            case Check(release):
                outcome = await self._try(release)
                verdict, failure = outcome.verdict, outcome.detail
                ended = self._install.checked(release, verdict, failure, self._look())
                return await self._perform(ended)
            case MarkFailed(content):
                self._mark_failed(content)
            case Unstage(release):
                await asyncio.to_thread(self._handler.unstage, release.version, release.manifest)
            case Quarantine(release):
                await asyncio.to_thread(self._handler.quarantine, release.version, release.manifest)
            case Arm(release):
                self._host.node.seek_lease(self._host.clock.now())
                self.arming.arm(release.manifest)
            case Disarm(why):
                self.arming.disarm(why)
            case Switched(release):
                self.arming.done(release.version)
            case Report(detail):
                self._report(detail)
            case Tell(event, facts):
                log_facts(event, dict(facts))
            case LookAgain(span):
                return span
            case _:
                assert_never(effect)
        return None

    def _note(self, note: Note) -> None:
        """Write an entry; on the way back a full disk must stop nothing."""
        try:
            self._journal.write(self.product, note.entry)
        except FiredoorError as error:
            if note.is_vital:
                raise
            log("journal-full", level="error", why=str(error), do="free disk space")
        self._install.noted(note.entry)
        self._on_change()

    async def _stage(self, release: Release) -> None:
        host, manifest = self._host, self._manifest_of(release.manifest)
        if manifest is None:
            raise Unavailable(f"the manifest of {release.version}", why="it is not here any more")
        await asyncio.to_thread(self._handler.check_root)

        def may_go_on() -> None:
            # What cannot be aborted runs out; it is not activated then.
            if self._handler.capabilities.can_abort:
                host.node.require(Gate.INSTALL, release.manifest)

        try:
            await asyncio.to_thread(
                self._handler.stage,
                manifest,
                release.manifest,
                store_get=host.store.get,
                may_go_on=may_go_on,
            )
        except NoRoom:
            raise
        except (Unavailable, Untrusted):
            # A piece that was here is gone or rotten: the store is looked at anew.
            host.apply(host.node.forget_pieces(release.manifest, host.clock.now()))
            raise
        self._tell_guard(release.manifest)
        self._install.staged()

    async def _activate(self, release: Release) -> Span | None:
        """Throw the switch, look at the gates once more, and do what follows, in one turn."""
        before = self._handler.active()
        self._handler.activate(release.version, release.manifest)
        self.counts.activations += 1
        is_permitted = self._host.node.permits(Gate.INSTALL, release.manifest)
        may_start = is_permitted and self._host.may_start(Gate.ACTIVATE, release.manifest)
        self.counts.activations_after_receipt += not is_permitted
        follow = self._install.activated(
            release,
            Release(*before) if before is not None else None,
            is_permitted=is_permitted,
            lease_error="" if may_start else str(self._host.node.no_lease()),
        )
        return await self._perform(follow)

    async def _try(self, release: Release) -> Outcome:
        """Run the checks of a release until there is a verdict, or an order takes it away."""

        async def ended_by_order() -> None:
            while self._host.node.level_of(release.manifest) < Gate.KEEP:
                self._ordered.clear()
                await self._ordered.wait()

        trial = Trial(
            self.product,
            self._asked(self._manifest_of(release.manifest)),
            self._handler.folder_of(release.version, release.manifest),
            Span(self._settings.settle_s),
            Span(self._settings.check_timeout_s),
        )
        now = self._host.clock.now
        return await hold_trial(trial, self._checks, clock=now, ended_by_order=ended_by_order)

    def _mark_failed(self, content: bytes) -> None:
        # What fails goes back even when the disk can take no note of it.
        try:
            self._journal.add_failed(self.product, content)
        except FiredoorError as error:
            log("journal-full", level="error", why=str(error), do="free disk space")

    def _tell_guard(self, manifest: str) -> None:
        """Keep what the guard goes by up to date: a newer release changes what one key may do."""
        subject = self._host.node.releases.get(manifest)
        newest, floor = self._host.node.newest_of(self.product), self._floor()
        if subject is not None and self._told.get(manifest) != (newest, floor):
            self._journal.know_release(manifest, subject, newest=newest, floor=floor)
            self._told[manifest] = (newest, floor)

    def _report(self, detail: str) -> None:
        if detail != self._detail:
            self._detail = detail
            self._on_change()

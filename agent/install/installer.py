"""One product on this endpoint: from an offer in signed metadata to a checked, active version.

* The journal is written before each side effect (life.py); after a crash, or a step that the world
  refused, the life goes on by lifecycle.RESUMES.
* Gate and switch run in one turn of the event loop: no order can be admitted between the last look
  at the brake and the switch. The gate is asked once more after it, and doubt undoes it.
* A release whose check failed steps back to the last good version, and its content digest is never
  installed again here.
* Without an unhalted version to go back to, what runs is left running and said so.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.checks.isolation import Checks
from agent.checks.trial import Outcome, Trial, hold_trial
from agent.decisions.lifecycle import Phase
from agent.decisions.plan import way_back
from agent.decisions.verdict import Verdict
from agent.handlers.contract import Handler
from agent.install.journal import Journal
from agent.install.life import Life
from agent.install.offers import Offers
from agent.install.product_row import Counts, row_of
from agent.install.resting import TRY_AGAIN_S, Resting
from agent.install.switching import LOOK_S as ARMED_LOOK_S
from agent.install.switching import Arming
from agent.install.tombstones import Tombstones, heed_tombstones
from firedoor.dice import Dice
from firedoor.errors import FiredoorError, Halted, NoRoom, Refused, Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.node.rosters import neighbourhood
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.host.host import Host
from firedoor.runtime.logs import log
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.settings import ProductSettings
from firedoor.units import Instant, Span, after, between
from firedoor.wire.messages import ProductHealth

# Where nothing stirs a product, it still looks at its plan this often.
LOOK_AGAIN_S = 30.0

# What a site's payloads, their databases and their users bear of restarts at one time; and no
# endpoint waits longer than this.
ROLL_BACKS_PER_S = 20.0
ROLL_BACK_SPREAD = Span(30.0)


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
        self._stirred = asyncio.Event()
        self._ordered = asyncio.Event()
        self._detail = ""
        self._life = Life(journal, product, on_change)
        self._is_settled = False
        self._stuck: set[str] = set()
        self._told: dict[str, tuple[int, int]] = {}
        self._leaves_at: dict[str, Instant] = {}
        self._dice = Dice(host.clock.seed())
        self._tombstones = Tombstones(Path(settings.root).expanduser())
        self._resting = Resting(host.clock.now)
        self._offers = Offers(host, product, settings.version, journal=journal, handler=handler)
        self.arming = Arming()
        self.counts = Counts()

    def stir(self) -> None:
        """Something changed that may change the plan, or end a trial."""
        self._stirred.set()
        self._ordered.set()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of this product is under way."""
        return self._life.phase is Phase.IDLE

    def health(self) -> ProductHealth:
        """What this endpoint has of the product now."""
        active = self._handler.active()
        version, manifest = active if active is not None else ("", "")
        phase = self._life.phase.value
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
            self._stirred.clear()
            try:
                pause = await self._round()
            except (FiredoorError, OSError) as error:
                pause = TRY_AGAIN_S
                self._is_settled = False
                self._resting.on_failure(error)
                self._say(f"{type(error).__name__}: {error}")
                log("install-failed", level="warning", product=self.product, why=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stirred.wait()

    # --- one look at the plan ------------------------------------------------------------------

    async def _round(self) -> float:
        """Do what is due; the seconds until the plan is looked at again."""
        await self._settle()
        await self._obey()
        for _, staged in self._handler.staged():
            self._tell_guard(staged)
        why = self._host.fetching.no_room.pop(self._life.manifest, None)
        if why is not None:
            self._say(why)
            self._resting.on_no_room()
        if wait := self._resting.wait_s():
            return wait
        offer = self._offers.best()
        entry = self._host.catalogue.entry(offer.manifest) if offer is not None else None
        if entry is None or entry.manifest != self.arming.manifest:
            self._disarm()
        if entry is None:
            return LOOK_AGAIN_S
        is_whole = self._host.node.is_whole(entry.manifest)
        if not self._host.may_start(Gate.INSTALL if is_whole else Gate.FETCH, entry.manifest):
            self._disarm()
            self._say(str(self._host.node.no_lease()))
        elif is_whole:
            await self._install(entry)
            return ARMED_LOOK_S if self.arming.manifest else LOOK_AGAIN_S
        elif not self._host.node.is_fetching(entry.manifest):
            self._life.note(Phase.FETCHING, manifest=entry.manifest)
            await self._host.acquire(entry, self._host.getter(None))
        return LOOK_AGAIN_S

    async def _settle(self) -> None:
        """Obey what the log says, then take in what lies here, before anything begins."""
        # A link would lead what follows to files of others; a mode alone keeps no halt waiting.
        # Four looks at names take less than the way to a thread and back.
        self._handler.check_root(links_alone=True)
        if not self._is_settled:
            await self._learn_what_is_here()
        # Nothing that lies beside the product may delay this.
        await self._obey()
        self._handler.check_root()
        if not self._is_settled:
            await heed_tombstones(self._tombstones, self._host, self.product)
            await self._resume()
            self._is_settled = True

    # --- install, check, step back -------------------------------------------------------------

    async def _install(self, entry: ReleaseEntry) -> None:
        manifest = await self._host.catalogue.manifest(entry, self._host.getter(None))
        if why := self._checks.hindrance(self._asked(manifest)):
            self._life.note(Phase.IDLE)
            self._say(f"{entry.version} is held back: {why}")
            return
        try:
            if entry.manifest != self.arming.manifest:
                self._life.note(Phase.STAGING, manifest=entry.manifest)
                await self._stage(entry, manifest)
                self._tell_guard(entry.manifest)
                self._life.note(Phase.STAGED)
                self._resting.on_success()
            if self._settings.switch == "when-told" and not self.arming.is_told:
                self._arm(entry)
                return
            self._activate(entry)
        except FiredoorError as error:
            self.arming.failed(error)
            if not isinstance(error, Halted):
                raise
            await asyncio.to_thread(self._handler.unstage, entry.version, entry.manifest)
            self.arming.disarm()
            self._life.note(Phase.IDLE)
            self._say(str(error))
            return
        self.arming.done(entry.version)
        await self._check(entry.version, entry.manifest, manifest)

    def _require_activation(self, entry: ReleaseEntry) -> None:
        # The end of staging asks no gate, so level 3 is looked at here as well.
        self._host.node.require(Gate.INSTALL, entry.manifest)
        if not self._host.may_start(Gate.ACTIVATE, entry.manifest):
            raise self._host.node.no_lease()

    def _arm(self, entry: ReleaseEntry) -> None:
        """Have the release switch when it is told to; its lease is renewed until then."""
        self._require_activation(entry)
        self._host.node.seek_lease(self._host.clock.now())
        self.arming.arm(entry.manifest)
        self._say(f"{entry.version} is armed: it switches when it is told to")

    def _disarm(self) -> None:
        if self.arming.manifest:
            log("disarmed", product=self.product, manifest=self.arming.manifest[:12])
            self.arming.disarm()
            self._say("")
            if self._life.phase is Phase.STAGED:
                self._life.note(Phase.IDLE)

    async def switch(self) -> str:
        """Switch to what is armed; the version. Raises as `Arming.switched`."""
        self.stir()
        return await self.arming.switched()

    async def _stage(self, entry: ReleaseEntry, manifest: Manifest) -> None:
        host = self._host
        await asyncio.to_thread(self._handler.check_root)
        try:
            await asyncio.to_thread(
                self._handler.stage,
                manifest,
                entry.manifest,
                store_get=host.store.get,
                may_go_on=lambda: host.node.require(Gate.INSTALL, entry.manifest),
            )
        except NoRoom:
            raise
        except (Unavailable, Untrusted):
            # A piece that was here is gone or rotten: the store is looked at anew.
            host.apply(host.node.forget_pieces(entry.manifest, host.clock.now()))
            raise

    def _activate(self, entry: ReleaseEntry) -> None:
        self._require_activation(entry)
        self._life.note(Phase.ACTIVATING)
        before = self._handler.active()
        self._handler.activate(entry.version, entry.manifest)
        self.counts.activations += 1
        # Asked again, for the machine may have stood still in between: an order would wait unread,
        # and the lease has run out meanwhile.
        is_permitted = self._host.node.permits(Gate.INSTALL, entry.manifest)
        if not is_permitted or not self._host.may_start(Gate.ACTIVATE, entry.manifest):
            self._undo(before)
            if is_permitted:
                raise self._host.node.no_lease()
            self.counts.activations_after_receipt += 1
            raise Halted(entry.manifest[:12], level=Gate.ACTIVATE)
        log("activated", product=self.product, version=entry.version)
        self._life.note(Phase.CHECKING)

    def _undo(self, before: tuple[str, str] | None) -> None:
        self._life.note_back(Phase.ROLLING_BACK)
        if before is None:
            self._handler.deactivate()
        else:
            self._handler.activate(*before)

    async def _check(self, version: str, manifest_id: str, manifest: Manifest | None) -> None:
        if why := self._checks.hindrance(self._asked(manifest)):
            # Switched before its checks were held back: it is not failed, and not proved either.
            self._step_back(manifest_id)
            self._say(f"{version} is held back: {why}")
            return
        outcome = await self._try(version, manifest_id, manifest)
        active = self._handler.active()
        if active is None or active[1] != manifest_id:
            self._life.note(Phase.IDLE)
            return  # Somebody else's hand: what runs is not what was tried.
        match outcome.verdict:
            case Verdict.WELL:
                self._life.note(Phase.IDLE, good=manifest_id)
                self._say("")
                log("release-well", product=self.product, version=version)
                await asyncio.to_thread(self._tidy)
            case Verdict.UNWELL:
                self._take_back(version, manifest_id, manifest, outcome.detail)
            case Verdict.UNDECIDED:
                await self._obey()
                # An order that was lifted in the meantime leaves the release to be tried again.
                if self._life.phase is Phase.CHECKING:
                    self._is_settled = False
                    self.stir()

    async def _try(self, version: str, manifest_id: str, manifest: Manifest | None) -> Outcome:
        async def ended_by_order() -> None:
            while self._level(manifest_id) < Gate.KEEP:
                self._ordered.clear()
                await self._ordered.wait()

        trial = Trial(
            self.product,
            self._asked(manifest),
            self._handler.folder_of(version, manifest_id),
            Span(self._settings.settle_s),
            Span(self._settings.check_timeout_s),
        )
        now = self._host.clock.now
        return await hold_trial(trial, self._checks, clock=now, ended_by_order=ended_by_order)

    def _asked(self, manifest: Manifest | None) -> tuple[str, ...]:
        """The checks of a release, its own and the administrator's."""
        return (*(manifest.checks if manifest is not None else ()), *self._settings.check)

    def _take_back(
        self, version: str, manifest_id: str, manifest: Manifest | None, failure: str
    ) -> None:
        log("release-unwell", product=self.product, version=version, why=failure)
        # What fails goes back even when the disk can take no note of it.
        try:
            if manifest is not None:
                self._journal.add_failed(self.product, manifest.content)
        except Unavailable as error:
            log("journal-full", level="error", why=str(error), do="free disk space")
        is_back = self._step_back(manifest_id)
        end = "was taken back" if is_back else "still runs, for there is nothing good to go back to"
        self._say(f"{version} failed its check and {end}: {failure}")

    def _step_back(self, manifest: str) -> bool:
        """Leave `manifest` for what last ran well here, if that may run; it needs no lease."""
        versions = {each: version for version, each in self._handler.staged()}
        staged = frozenset(versions)
        good = way_back(manifest, self._life.kept, staged=staged, permits=self._may_run)
        if good is None:
            # What runs because nothing else can is left running.
            self._life.note_back(Phase.IDLE)
            return False
        self._life.note_back(Phase.ROLLING_BACK, manifest=manifest)
        self._handler.activate(versions[good], good)
        self.counts.rolled_back += 1
        self._life.note_back(Phase.IDLE, manifest=good, good=good)
        log("rolled-back", product=self.product, version=versions[good])
        return True

    def _may_run(self, manifest: str) -> bool:
        subject = self._host.node.releases.get(manifest)
        if subject is None:
            return False  # Nobody can say which orders cover it.
        is_failed = (
            subject.content in self._journal.failed(self.product) or subject.counter < self._floor()
        )
        return not is_failed and self._host.node.may_run(manifest)

    def _floor(self) -> int:
        """The lowest counter that the publisher lets this product step back to."""
        listed = self._host.catalogue.releases
        floors = [each.floor for each in listed if each.product == self.product]
        return max([self._journal.floor_of(self.product), *floors])

    def _tidy(self) -> None:
        """Remove every version that nothing leads back to."""
        active = self._handler.active()
        kept = {*self._life.kept, active[1] if active else ""}
        for version, manifest in self._handler.staged():
            if manifest not in kept:
                self._handler.unstage(version, manifest)

    def _tell_guard(self, manifest: str) -> None:
        """Keep what the guard goes by up to date: a newer release changes what one key may do."""
        subject = self._host.node.releases.get(manifest)
        newest, floor = self._host.node.newest_of(self.product), self._floor()
        if subject is not None and self._told.get(manifest) != (newest, floor):
            self._journal.know_release(manifest, subject, newest=newest, floor=floor)
            self._told[manifest] = (newest, floor)

    def keep_tombstones(self) -> None:
        """Have the halts in force lie beside the product; blocking."""
        self._tombstones.keep(
            self._host.node.orders.in_force(),
            self._host.node.is_known,
        )

    async def _learn_what_is_here(self) -> None:
        """Make what is on this disk known to the brake, by name, content and every file."""
        for version, manifest in self._handler.staged():
            try:
                await self._host.learn_held(manifest)
                self._tell_guard(manifest)
            except Refused as error:
                log("manifest-damaged", level="warning", version=version, why=str(error))

    async def _resume(self) -> None:
        """Go on after a crash or a refused step: what is half-checked is checked again."""
        try:
            await asyncio.to_thread(self._handler.sweep)
        except OSError as error:
            log("not-swept", level="error", why=str(error), do="remove versions/.half-*")
        self.arming.disarm()
        active, manifest = self._handler.active(), self._life.manifest
        is_unproved = active is not None and not self._life.is_proved(manifest)
        is_switched = is_unproved and active is not None and active[1] == manifest
        self._life.resume(is_switched=is_switched)
        # A check that is asked again must not put off an order.
        await self._obey()
        match self._life.phase:
            case Phase.CHECKING if active is not None:
                log("check-resumed", product=self.product, version=active[0])
                await self._check(active[0], manifest, self._offers.held(manifest))
            case Phase.ROLLING_BACK if active is not None:
                if not self._step_back(manifest):
                    self._say(f"{active[0]} was to be taken back; nothing good to go back to")
            case _:
                pass

    # --- orders --------------------------------------------------------------------------------

    async def _obey(self) -> None:
        """Enforce levels 3, 5 and 6 on what is already on the disk."""
        active = self._handler.active()
        for version, manifest in self._handler.staged():
            level = self._level(manifest)
            is_active = active is not None and active[1] == manifest
            if is_active and level >= Gate.KEEP:
                if not self._may_leave(manifest):
                    continue
                if not self._step_back(manifest):
                    self._stuck.add(manifest)
                    self._say(f"{version} is halted at level {level}; nothing good to go back to")
                    continue
                self._stuck.discard(manifest)
                self._leaves_at.pop(manifest, None)
                is_active = False
            if is_active:
                continue
            if level >= Gate.KEEP:
                await asyncio.to_thread(self._handler.quarantine, version, manifest)
            elif level >= Gate.INSTALL and manifest not in self._life.kept:
                await asyncio.to_thread(self._handler.unstage, version, manifest)

    def _may_leave(self, manifest: str) -> bool:
        """Whether it is this endpoint's turn: a site's roll-backs are spread, so many a second."""
        now = self._host.clock.now()
        if manifest not in self._leaves_at:
            span = neighbourhood(self._host.node.sessions) / ROLL_BACKS_PER_S
            delay = min(ROLL_BACK_SPREAD, span) * self._dice.fraction()
            self._leaves_at[manifest] = after(now, Span(delay))
        wait = between(now, self._leaves_at[manifest])
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self.stir)
        return wait <= 0

    def has_to_obey(self) -> bool:
        """Whether a halt asks for something here that is not done yet, and can be."""
        if not self._is_settled:
            return True  # What lies here is not known to the brake yet.
        active = self._handler.active()
        is_busy = self._life.phase in {Phase.STAGING, Phase.ACTIVATING}
        for _, manifest in self._handler.staged():
            level = self._level(manifest)
            is_active = active is not None and active[1] == manifest
            if is_active and level >= Gate.KEEP and manifest not in self._stuck:
                return True
            if not is_active and (
                level >= Gate.KEEP or (level >= Gate.INSTALL and manifest not in self._life.kept)
            ):
                return True
        return is_busy and self._level(self._life.manifest) >= Gate.INSTALL

    def staged(self) -> list[str]:
        """The manifests of what is on this disk."""
        return [manifest for _, manifest in self._handler.staged()]

    def _lowered(self, manifest: str) -> str:
        """Why a halt of what runs has a lower level here than the one that was signed."""
        signed = self._host.node.lowered_level_of(manifest)
        if not signed:
            return ""
        return (
            f"the halt of level {signed} is level {self._level(manifest)} here: one key signed it, "
            "and a release with other bytes was newer when it came; two keys reach any release"
        )

    def _level(self, manifest: str) -> int:
        return self._host.node.level_of(manifest)

    # --- small things --------------------------------------------------------------------------

    def _say(self, detail: str) -> None:
        if detail != self._detail:
            self._detail = detail
            self._on_change()

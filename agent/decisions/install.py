"""What an endpoint does with one product: what it sees in, effects out, over the lifecycle's table.

* Orders come first: `obey` steps back from, quarantines and removes what is halted, whatever `plan`
  would do. It needs no lease and no room on the disk.
* A phase is noted before the side effect that it names. A `Note` on the way back may fail.
* What must not be torn apart stands in one list: the host executes `Note(ACTIVATING)` and
  `Activate` in one turn of its loop, and then calls `activated` in the same turn.
* After an error the host calls `failed`; the next `obey` recovers by lifecycle.RECOVERS_TO.

It touches no disk, process or clock; install/installer.py performs what it decides, and
simulator/endpoints.py runs it in virtual time.
"""

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
from agent.decisions.lifecycle import Entry, Phase
from agent.decisions.plan import way_back
from agent.decisions.resting import TRY_AGAIN, Resting
from agent.decisions.verdict import Verdict
from firedoor.dice import Dice
from firedoor.effects import Tell
from firedoor.errors import FiredoorError, Halted, Unavailable
from firedoor.halt.brake import Gate
from firedoor.units import Instant, Span, after, between

# Where nothing stirs a product, it still looks at its plan this often.
LOOK_AGAIN = Span(30.0)

# An armed release's lease is looked at this often: a sixth of the 30 s that one counts for a start.
LOOK_ARMED = Span(5.0)

# At most so many endpoints of a site step back each second: their payloads, databases and users
# bear no more restarts.
ROLL_BACKS_PER_S = 20.0

# No endpoint waits longer than this for its turn.
ROLL_BACK_SPREAD = Span(30.0)


class Install:
    """The decisions about one `product`. `entry`: as the journal has it."""

    __slots__ = (
        "_dice",
        "_failed",
        "_is_recovered",
        "_leaves_at",
        "_resting",
        "_stuck",
        "_switches_when_told",
        "armed",
        "entry",
        "product",
    )

    def __init__(
        self,
        product: str,
        entry: Entry,
        dice: Dice,
        now: Instant,
        *,
        switches_when_told: bool = False,
    ) -> None:
        self.product = product
        self.entry = entry
        self.armed = ""
        self._dice = dice
        self._switches_when_told = switches_when_told
        self._is_recovered = False
        self._resting = Resting(now)
        self._failed: set[bytes] = set()
        self._stuck: set[str] = set()
        self._leaves_at: dict[str, Instant] = {}

    # --- questions ------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the product stands."""
        return self.entry.phase

    @property
    def wants_candidate(self) -> bool:
        """Whether `plan` looks at a candidate; not before a check or a step back is over."""
        return self.phase not in {Phase.CHECKING, Phase.ROLLING_BACK}

    @property
    def failed_contents(self) -> frozenset[bytes]:
        """Contents that failed since the start, also those that the journal had no room to note."""
        return frozenset(self._failed)

    def has_to_obey(self, seen: Sight) -> bool:
        """Whether a halt asks for something here that is not done yet, and can be."""
        for release in seen.staged:
            level = seen.level(release.manifest)
            if seen.is_active(release.manifest):
                if level >= Gate.KEEP and release.manifest not in self._stuck:
                    return True
            elif self._leaves_the_disk(release, level):
                return True
        is_busy = self.phase in {Phase.STAGING, Phase.ACTIVATING}
        return is_busy and seen.level(self.entry.manifest) >= Gate.INSTALL

    # --- inputs ---------------------------------------------------------------------------------

    def noted(self, entry: Entry) -> None:
        """The journal has this entry, or could not take it on the way back."""
        self.entry = entry

    def obey(self, seen: Sight) -> list[InstallEffect]:
        """Recover, then enforce halts: from level 3 remove, from 5 step back and quarantine."""
        effects = self._recover(seen)
        self._stuck = set()
        self._leaves_at = {each: at for each, at in self._leaves_at.items() if seen.is_active(each)}
        # What runs comes first: what follows takes time, and a halt of the way back may come in it.
        for release in sorted(seen.staged, key=lambda each: not seen.is_active(each.manifest)):
            level = seen.level(release.manifest)
            is_active = seen.is_active(release.manifest)
            if is_active and level < Gate.KEEP:
                continue
            if is_active:
                if wait := self._wait_to_leave(release.manifest, seen):
                    effects.append(LookAgain(wait))
                    continue
                back = self._step_back(release.manifest, seen)
                effects += back
                if not leads_back(back):
                    self._stuck.add(release.manifest)
                    why = f"is halted at level {level}; nothing good to go back to"
                    effects.append(Report(f"{release.version} {why}"))
                    continue
            if level >= Gate.KEEP:
                effects.append(Quarantine(release))
            elif self._leaves_the_disk(release, level):
                effects.append(Unstage(release))
        return effects

    def plan(self, seen: Sight) -> list[InstallEffect]:
        """The next step towards the candidate; without `LookAgain` the host looks again at once."""
        if self.phase is Phase.CHECKING:
            return self._check(seen)
        if self.phase is Phase.ROLLING_BACK:
            return self._roll_back(seen)
        if wait := self._resting.wait(seen.now):
            return [LookAgain(wait)]
        is_over = not self._is_ready(seen.candidate)
        if is_over and (self.armed or self.phase is Phase.STAGED):
            return self._disarm() if self.armed else [Note(self.entry.moved(Phase.IDLE))]
        return self._approach(seen.candidate, seen) if seen.candidate else [LookAgain(LOOK_AGAIN)]

    def staged(self) -> None:
        """`Stage` got through."""
        self._resting.on_success()

    def activated(
        self, release: Release, before: Release | None, *, is_permitted: bool, lease_error: str
    ) -> list[InstallEffect]:
        """The switch is thrown, and these are the gates after it.

        The machine may have stood still in between: then an order waited unread, or the lease has
        run out. Doubt undoes the activation.
        """
        facts = (("product", self.product), ("version", release.version))
        self.armed = ""
        if is_permitted and not lease_error:
            checking = Note(self.entry.moved(Phase.CHECKING))
            return [Tell("activated", facts), Switched(release), checking]
        back = self.entry.moved(Phase.ROLLING_BACK)
        undone: list[InstallEffect] = [
            Note(back, is_vital=False),
            Undo(before),
            Note(back.moved(Phase.IDLE), is_vital=False),
        ]
        if not is_permitted:
            halted = Halted(release.manifest[:12], level=Gate.ACTIVATE)
            return [*undone, Disarm(halted), Unstage(release), Report(str(halted))]
        why = Unavailable("the switch", why=lease_error)
        return [*undone, Disarm(why), Report(lease_error), LookAgain(TRY_AGAIN)]

    def checked(
        self, release: Release, verdict: Verdict, failure: str, seen: Sight
    ) -> list[InstallEffect]:
        """The checks of `release` have ended; `UNDECIDED`: an order ended them."""
        if not seen.is_active(release.manifest):
            return [Note(self.entry.moved(Phase.IDLE))]  # Somebody else has changed the switch.
        facts = (("product", self.product), ("version", release.version))
        match verdict:
            case Verdict.WELL:
                good = self.entry.moved(Phase.IDLE, good=release.manifest)
                others = [each for each in seen.staged if each.manifest not in good.kept]
                tidy = [Unstage(each) for each in others if not seen.is_active(each.manifest)]
                return [Note(good), Report(""), Tell("release-well", facts), *tidy]
            case Verdict.UNWELL:
                content = seen.contents.get(release.manifest)
                marks = [MarkFailed(content)] if content is not None else []
                self._failed |= {mark.content for mark in marks}
                back = self._step_back(release.manifest, seen)
                none = "still runs, for there is nothing good to go back to"
                end = "was taken back" if leads_back(back) else none
                said = Report(f"{release.version} failed its check and {end}: {failure}")
                tell = Tell("release-unwell", (*facts, ("why", failure)))
                return [tell, *marks, *back, said]
            case Verdict.UNDECIDED:
                return []

    def no_room(self, why: str, now: Instant) -> list[InstallEffect]:
        """The fetch of the release that the phase is about was given up."""
        self._resting.on_no_room(now)
        return [Report(why)]

    def failed(self, error: Exception, now: Instant) -> list[InstallEffect]:
        """A step did not get through; the next `obey` recovers."""
        if isinstance(error, Halted) and self.phase is Phase.STAGING:
            # The brake aborted it, and that is no failure.
            idle = Note(self.entry.moved(Phase.IDLE), is_vital=False)
            return [Disarm(error), idle, Report(str(error))]
        self._is_recovered = False
        self._resting.on_failure(error, now)
        said = Report(f"{type(error).__name__}: {error}")
        why = error
        if not isinstance(why, FiredoorError):
            why = Unavailable("the switch", why=str(error))
        self.armed = ""
        return [Disarm(why), said, LookAgain(TRY_AGAIN)]

    # --- inside ---------------------------------------------------------------------------------

    def _recover(self, seen: Sight) -> list[InstallEffect]:
        """Go on after a start or an error. Nothing is written: the journal says the same again."""
        if self._is_recovered:
            return []
        self._is_recovered = True
        manifest = self.entry.manifest
        is_unproved = seen.is_active(manifest) and manifest != self.entry.good
        self.entry = self.entry.recovered(is_switched=is_unproved)
        if self.phase is Phase.CHECKING and seen.active is not None:
            facts = (("product", self.product), ("version", seen.active.version))
            return [Tell("check-resumed", facts)]
        return []

    def _leaves_the_disk(self, release: Release, level: int) -> bool:
        is_kept = release.manifest in self.entry.kept
        return level >= Gate.KEEP or (level >= Gate.INSTALL and not is_kept)

    def _wait_to_leave(self, manifest: str, seen: Sight) -> Span:
        """How long until it is this endpoint's turn: a site's roll-backs are spread."""
        if manifest not in self._leaves_at:
            span = min(ROLL_BACK_SPREAD, seen.neighbours / ROLL_BACKS_PER_S)
            self._leaves_at[manifest] = after(seen.now, Span(span * self._dice.fraction()))
        return Span(max(0.0, between(seen.now, self._leaves_at[manifest])))

    def _step_back(self, manifest: str, seen: Sight) -> list[InstallEffect]:
        """Leave `manifest` for what last ran well here, if that may run; it needs no lease."""
        by_manifest = {each.manifest: each for each in seen.staged}

        def permits(each: str) -> bool:
            return each in seen.may_run and seen.contents.get(each) not in self._failed

        staged = frozenset(by_manifest)
        good = way_back(manifest, self.entry.kept, staged=staged, permits=permits)
        if good is None:
            # What runs because nothing else can is left running. A phase of another release goes
            # on: the fix of what is halted comes that way.
            is_over = self.phase in {Phase.CHECKING, Phase.ROLLING_BACK}
            return [Note(self.entry.moved(Phase.IDLE), is_vital=False)] if is_over else []
        back = self.entry.moved(Phase.ROLLING_BACK, manifest=manifest)
        done = back.moved(Phase.IDLE, manifest=good, good=good)
        release = by_manifest[good]
        tell = Tell("rolled-back", (("product", self.product), ("version", release.version)))
        noted = Note(done, is_vital=False)
        return [Note(back, is_vital=False), StepBack(release), noted, tell]

    def _roll_back(self, seen: Sight) -> list[InstallEffect]:
        """Finish a step back that a crash or the disk cut short."""
        effects = self._step_back(self.entry.manifest, seen)
        if not leads_back(effects) and seen.active is not None:
            why = "was to be taken back; nothing good to go back to"
            effects.append(Report(f"{seen.active.version} {why}"))
        return effects

    def _check(self, seen: Sight) -> list[InstallEffect]:
        manifest = self.entry.manifest
        if seen.active is None or seen.active.manifest != manifest:
            return [Note(self.entry.moved(Phase.IDLE))]
        if seen.level(manifest) >= Gate.KEEP:
            # Its turn to be taken back comes; a check has nothing to say until then.
            return [LookAgain(LOOK_AGAIN)]
        if seen.hindrance:
            # Switched before its checks were held back: it is not failed, and not proved either.
            said = Report(f"{seen.active.version} is held back: {seen.hindrance}")
            return [*self._step_back(manifest, seen), said]
        return [Check(seen.active)]

    def _approach(self, chosen: Candidate, seen: Sight) -> list[InstallEffect]:
        """One step towards the candidate: its pieces, its place beside what runs, the switch."""
        if chosen.lease_error:
            # What is staged and waits for its switch is worth another look soon.
            span = TRY_AGAIN if self._is_ready(chosen) else LOOK_AGAIN
            gone = self._disarm() if self.armed else []
            return [*gone, Report(chosen.lease_error), LookAgain(span)]
        if not chosen.is_whole and self.phase is Phase.STAGED:
            # A piece is gone or rotten since it was staged: it is fetched and staged again.
            return self._disarm() if self.armed else [Note(self.entry.moved(Phase.IDLE))]
        if not chosen.is_whole:
            return [*self._download(chosen), LookAgain(LOOK_AGAIN)]
        if chosen.hindrance:
            return self._hold_back(chosen)
        if self._is_ready(chosen):
            return self._switch_to(chosen.release, seen)
        return self._stage(chosen)

    def _is_ready(self, chosen: Candidate | None) -> bool:
        """Whether `chosen` is staged and waits for nothing but its switch."""
        is_meant = chosen is not None and chosen.release.manifest == self.entry.manifest
        return is_meant and self.phase is Phase.STAGED

    def _download(self, chosen: Candidate) -> list[InstallEffect]:
        if chosen.is_fetching:
            return []
        fetching = self.entry.moved(Phase.FETCHING, manifest=chosen.release.manifest)
        return [Note(fetching), Download(chosen.release)]

    def _hold_back(self, chosen: Candidate) -> list[InstallEffect]:
        gone = self._disarm() if self.armed else []
        is_idle = self.phase is Phase.IDLE or bool(gone)
        notes = [] if is_idle else [Note(self.entry.moved(Phase.IDLE))]
        said = Report(f"{chosen.release.version} is held back: {chosen.hindrance}")
        return [*gone, *notes, said, LookAgain(LOOK_AGAIN)]

    def _stage(self, chosen: Candidate) -> list[InstallEffect]:
        staging = self.entry.moved(Phase.STAGING, manifest=chosen.release.manifest)
        return [Note(staging), Stage(chosen.release), Note(staging.moved(Phase.STAGED))]

    def _switch_to(self, release: Release, seen: Sight) -> list[InstallEffect]:
        if self._switches_when_told and not seen.is_told:
            self.armed = release.manifest
            said = Report(f"{release.version} is armed: it switches when it is told to")
            return [Arm(release), said, LookAgain(LOOK_ARMED)]
        return [Note(self.entry.moved(Phase.ACTIVATING)), Activate(release)]

    def _disarm(self) -> list[InstallEffect]:
        facts = (("product", self.product), ("manifest", self.armed[:12]))
        self.armed = ""
        why = Unavailable("the switch", why="it was disarmed meanwhile")
        idle = [Note(self.entry.moved(Phase.IDLE))] if self.phase is Phase.STAGED else []
        return [Tell("disarmed", facts), Disarm(why), Report(""), *idle]


def leads_back(effects: list[InstallEffect]) -> bool:
    """Whether these step back to another release."""
    return any(isinstance(effect, StepBack) for effect in effects)

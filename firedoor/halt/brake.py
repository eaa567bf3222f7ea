"""Whether a release may move, be installed or be activated here, now.

* The brake answers one question: the highest level in force for a release. A gate is a level: at
  its gate's level or above, the answer is no.
* One key reaches level 4 for anything, and levels 5 to 7 for the newest bytes of a product alone,
  as reach.py decides once; two keys reach them for any narrow scope.
* A release's controller halts that release by name, and not its bytes under other names.
* A drill denies nothing. A release with a pass goes through halts of everything, and no others.

It holds no order; the order set does. Source: halt/README.md, Levels and Authority.
"""

from collections.abc import Collection, Iterable
from enum import IntEnum

from firedoor.halt.order import LEVEL_IN_DOUBT, LEVEL_NARROW, Halt
from firedoor.halt.reach import Decision, Known, Reach, Releases
from firedoor.halt.scope import NAMES_VERSIONS, ScopeKind, Subject
from firedoor.identity import Place

# Signatures that levels 5 to 7 take, but for the newest release of a product.
SIGNERS_NARROW = 2


# Of a brake that no certificate has placed: halts of a site never reach it.
UNPLACED = Place()


class Gate(IntEnum):
    """What is asked for, with the level that first denies it (halt/README.md, Levels)."""

    SERVE = 1
    FETCH = 2
    INSTALL = 3
    ACTIVATE = 4
    KEEP = 5
    RUN = 6


class Brake:
    """The halts in force, and the releases that they are held against.

    `place`: of this machine's certificate.
    """

    __slots__ = ("_in_force", "_passed", "_place", "_releases", "reach")

    def __init__(self, place: Place = UNPLACED) -> None:
        self._place = place
        # One assignment changes all of it: a thread that stages a release asks in between.
        self._in_force: tuple[Halt, ...] = ()
        self._passed: frozenset[bytes] = frozenset()
        self._releases = Releases()
        self.reach = Reach()

    def set_halts(self, halts: Iterable[Halt], passed: Collection[bytes] = ()) -> None:
        """These halts are in force from now on, and no others; `passed`: contents with a pass."""
        self._passed = frozenset(passed)
        self._in_force = tuple(halt for halt in halts if not halt.is_drill)

    def restore(self, decided: Iterable[bytes], known: Iterable[bytes]) -> None:
        """Take back what an earlier run has decided; raises as `Reach.restore`."""
        for subject in self.reach.restore(decided, known):
            self._releases.add(subject)

    def decide(self) -> list[Decision | Known]:
        """What one key's halts reach, as far as that was not decided before; to be kept durably."""
        return self.reach.decide(self._in_force, self._releases, self._place)

    def learn(self, subject: Subject) -> None:
        """A release exists. A halt of it denies its content under any other name too."""
        self._releases.add(subject)

    def halts_on(self, subject: Subject) -> list[Halt]:
        """The halts in force that cover `subject`."""
        has_pass = subject.content in self._passed
        return [
            halt
            for halt in self._in_force
            if self.covers(halt, subject) and not (has_pass and _is_passable(halt))
        ]

    def level(self, subject: Subject) -> int:
        """The highest level in force for `subject`; 0 when nothing covers it."""
        return max((self._reach(halt, subject) for halt in self.halts_on(subject)), default=0)

    def lowered(self, subject: Subject) -> int:
        """The highest level that was signed for `subject` and does not hold here; 0: none."""
        level = self.level(subject)
        return max((each.level for each in self.halts_on(subject) if each.level > level), default=0)

    def covers(self, halt: Halt, subject: Subject) -> bool:
        """Whether this halt, in force or not, is about `subject` here."""
        if halt.scope.covers(subject, halt.contents, self._place):
            return True
        # A publisher who named the key could else halt another's release, by listing its bytes.
        if halt.scope.kind not in NAMES_VERSIONS or halt.is_by_controller:
            return False
        alike = self._releases.alike(subject.content)
        return subject.content in self.reach.named(halt.id) or any(
            halt.scope.covers(each, (), self._place) for each in alike
        )

    def permits(self, gate: Gate, subject: Subject) -> bool:
        """Whether `gate` is open for `subject`."""
        return self.level(subject) < gate

    def newest(self, product: str) -> int:
        """The highest counter of the product's releases that are known; 0 for none."""
        return self._releases.highest(product)

    @property
    def halts(self) -> tuple[Halt, ...]:
        """The halts in force."""
        return self._in_force

    def _reach(self, halt: Halt, subject: Subject) -> int:
        """The level of `halt` for `subject`, by how many have signed it."""
        if halt.level < LEVEL_NARROW or len(halt.keyids) >= SIGNERS_NARROW:
            return halt.level
        holds = self.reach.holds(halt.id, subject.content)
        if holds is None:
            # Nobody has asked for the decision yet; it will be this.
            holds = subject.counter >= self._releases.highest(subject.product)
        return halt.level if holds else LEVEL_IN_DOUBT


def _is_passable(halt: Halt) -> bool:
    """Whether a pass goes through it: what is not understood may mean the very release."""
    return halt.scope.kind is ScopeKind.EVERYTHING and not halt.is_doubtful

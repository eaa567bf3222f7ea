"""Whether a release may move, be installed or be activated here, now.

* The brake answers one question: the highest level in force for a release. A gate is a level: at
  its gate's level or above, the answer is no.
* One key reaches level 4 for anything, and levels 5 to 7 for the newest bytes of a product alone,
  as reach.py decides once; two keys reach them for any narrow scope.
* A release's controller halts that release by name, and not its bytes under other names.
* A drill denies nothing. A release with a pass goes through halts of everything, and no others.

It holds no order; the order set does. Source: halt.md, Levels and Authority.
"""

from collections.abc import Collection, Iterable
from enum import IntEnum

from firedoor.halt.order import LEVEL_IN_DOUBT, LEVEL_NARROW, Halt
from firedoor.halt.reach import Decision, Reach
from firedoor.halt.scope import NAMES_VERSIONS, ScopeKind, Subject
from firedoor.identity import Place

# Signatures that levels 5 to 7 take, but for the newest release of a product.
SIGNERS_NARROW = 2


# Of a brake that no certificate has placed: halts of a site never reach it.
UNPLACED = Place()


class Gate(IntEnum):
    """What is asked for, with the level that first denies it (halt.md, Levels)."""

    SERVE = 1
    FETCH = 2
    INSTALL = 3
    ACTIVATE = 4
    KEEP = 5
    RUN = 6


class Brake:
    """The halts in force and the content digests that they have come to deny.

    `place`: of this machine's certificate.
    """

    __slots__ = ("_in_force", "_newest", "_passed", "_place", "_seen", "reach")

    def __init__(self, place: Place = UNPLACED) -> None:
        self._place = place
        # One assignment changes all of it: a thread that stages a release asks in between.
        self._in_force: tuple[tuple[Halt, frozenset[bytes]], ...] = ()
        self._passed: frozenset[bytes] = frozenset()
        self._seen: dict[str, set[Subject]] = {}
        self._newest: dict[str, int] = {}
        self.reach = Reach()

    def set_halts(self, halts: Iterable[Halt], passed: Collection[bytes] = ()) -> None:
        """These halts are in force from now on, and no others; `passed`: contents with a pass."""
        self._passed = frozenset(passed)
        self._resolve(halt for halt in halts if not halt.is_drill)

    def decide(self) -> list[Decision]:
        """What one key's halts reach, as far as that was not decided before; to be kept durably."""
        return self.reach.decide(self._in_force, self._seen, self._place)

    def learn(self, subject: Subject) -> None:
        """A release exists. A halt of it denies its content under any other name too."""
        self._seen.setdefault(subject.product, set()).add(subject)
        self._newest[subject.product] = max(subject.counter, self._newest.get(subject.product, 0))
        self._resolve(self.halts)

    def halts_on(self, subject: Subject) -> list[Halt]:
        """The halts in force that cover `subject`."""
        has_pass = subject.content in self._passed
        return [
            halt
            for halt, contents in self._in_force
            if halt.scope.covers(subject, contents, self._place)
            and not (has_pass and _is_passable(halt))
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
        contents = halt.contents | self._named_contents(halt)
        return halt.scope.covers(subject, contents, self._place)

    def permits(self, gate: Gate, subject: Subject) -> bool:
        """Whether `gate` is open for `subject`."""
        return self.level(subject) < gate

    def newest(self, product: str) -> int:
        """The highest counter of the product's releases that are known; 0 for none."""
        return self._newest.get(product, 0)

    @property
    def halts(self) -> tuple[Halt, ...]:
        """The halts in force."""
        return tuple(halt for halt, _ in self._in_force)

    def _reach(self, halt: Halt, subject: Subject) -> int:
        """The level of `halt` for `subject`, by how many have signed it."""
        if halt.level < LEVEL_NARROW or len(halt.keyids) >= SIGNERS_NARROW:
            return halt.level
        holds = self.reach.holds(halt.id, subject.content)
        if holds is None:
            # Nobody has asked for the decision yet; it will be this.
            holds = subject.counter >= self._newest.get(subject.product, 0)
        return halt.level if holds else LEVEL_IN_DOUBT

    def _resolve(self, halts: Iterable[Halt]) -> None:
        self._in_force = tuple((halt, halt.contents | self._named_contents(halt)) for halt in halts)

    def _named_contents(self, halt: Halt) -> frozenset[bytes]:
        # A publisher who named the key could else halt another's release, by listing its bytes.
        if halt.scope.kind not in NAMES_VERSIONS or halt.is_by_controller:
            return frozenset()
        seen = self._seen.get(halt.scope.name, ())
        named = frozenset(each.content for each in seen if halt.scope.covers(each, (), self._place))
        return named | self.reach.named(halt.id)


def _is_passable(halt: Halt) -> bool:
    """Whether a pass goes through it: what is not understood may mean the very release."""
    return halt.scope.kind is ScopeKind.EVERYTHING and not halt.is_doubtful

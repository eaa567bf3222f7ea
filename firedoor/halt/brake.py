"""Whether a release may move, be installed or be activated here, now.

The brake answers one question: the highest level in force for a release. A gate is a level: at its
gate's level or above, the answer is no. It holds no order; the order set does.
"""

from collections.abc import Iterable
from enum import IntEnum

from firedoor.halt.order import Halt
from firedoor.halt.scope import ScopeKind, Subject


class Gate(IntEnum):
    """What is asked for, with the level that first denies it (halt.md, Levels)."""

    SERVE = 1
    FETCH = 2
    INSTALL = 3
    ACTIVATE = 4
    KEEP = 5
    RUN = 6


class Brake:
    """The halts in force and the content digests that they have come to deny."""

    __slots__ = ("_in_force", "_seen")

    def __init__(self) -> None:
        # One assignment changes all of it: a thread that stages a release asks in between.
        self._in_force: tuple[tuple[Halt, frozenset[bytes]], ...] = ()
        self._seen: dict[tuple[str, str], set[bytes]] = {}

    def set_halts(self, halts: Iterable[Halt]) -> None:
        """These halts are in force from now on, and no others."""
        self._resolve(halts)

    def learn(self, subject: Subject) -> None:
        """A release exists. A halt of it denies its content under any other name too."""
        self._seen.setdefault((subject.product, subject.version), set()).add(subject.content)
        self._resolve(self.halts)

    def halts_on(self, subject: Subject) -> list[Halt]:
        """The halts in force that cover `subject`."""
        pairs = self._in_force
        return [halt for halt, contents in pairs if halt.scope.covers(subject, contents)]

    def level(self, subject: Subject) -> int:
        """The highest level in force for `subject`; 0 when nothing covers it."""
        return max((halt.level for halt in self.halts_on(subject)), default=0)

    def permits(self, gate: Gate, subject: Subject) -> bool:
        """Whether `gate` is open for `subject`."""
        return self.level(subject) < gate

    @property
    def halts(self) -> tuple[Halt, ...]:
        """The halts in force."""
        return tuple(halt for halt, _ in self._in_force)

    def _resolve(self, halts: Iterable[Halt]) -> None:
        self._in_force = tuple((halt, halt.contents | self._named_contents(halt)) for halt in halts)

    def _named_contents(self, halt: Halt) -> frozenset[bytes]:
        if halt.scope.kind is not ScopeKind.RELEASE:
            return frozenset()
        return frozenset(self._seen.get((halt.scope.product, halt.scope.version), ()))

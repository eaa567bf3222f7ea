"""What may pass here and now: the brake, whether this node has caught up, and its lease, as one.

The brake says what an order denies. A node that has not caught up since its start lets nothing
pass (a mirror goes on serving: a branch must not stop with its WAN). To begin something also takes
a lease. The core that uses it forwards to it; nobody else changes it.
"""

from collections.abc import Mapping

from firedoor.effects import Effect, KeepDecision, KeepKnown
from firedoor.errors import Halted
from firedoor.halt.brake import Brake, Gate
from firedoor.halt.reach import Known
from firedoor.halt.scope import Subject
from firedoor.halt.sync import Reconciliation
from firedoor.identity import Place, Role
from firedoor.node.leasing import Leasing
from firedoor.units import Instant
from firedoor.wire.codec import encode


class Gates:
    """The gates of one node, and the releases that it knows of, by manifest."""

    __slots__ = ("_is_mirror", "_leasing", "_reconciliation", "brake", "subjects")

    def __init__(
        self, role: Role, place: Place, reconciliation: Reconciliation, leasing: Leasing
    ) -> None:
        self._is_mirror = role is Role.MIRROR
        self._reconciliation = reconciliation
        self._leasing = leasing
        self.brake = Brake(place)
        self.subjects: dict[str, Subject] = {}

    def learn(self, manifest: str, subject: Subject) -> bool:
        """A release exists; False: that was known."""
        if self.subjects.get(manifest) == subject:
            return False
        self.subjects[manifest] = subject
        self.brake.learn(subject)
        return True

    def learn_all(self, subjects: Mapping[str, Subject]) -> bool:
        """These releases exist, by manifest; False: all of that was known."""
        # Each of them, also after one that is new.
        return sum(self.learn(*each) for each in subjects.items()) > 0

    def decide(self) -> list[Effect]:
        """What halts reach, as far as that was not decided before."""
        return [
            KeepKnown(encode(each)) if isinstance(each, Known) else KeepDecision(encode(each))
            for each in self.brake.decide()
        ]

    def permits(self, gate: Gate, manifest: str) -> bool:
        """Whether this release may pass `gate` here and now. An unknown one may not."""
        is_done = self._reconciliation.is_done
        is_behind = not is_done and not (self._is_mirror and gate is Gate.SERVE)
        return not is_behind and self.is_open(gate, manifest)

    def is_open(self, gate: Gate, manifest: str) -> bool:
        """Whether no order closes `gate` for this release; an unknown one may not pass."""
        subject = self.subjects.get(manifest)
        return subject is not None and self.brake.permits(gate, subject)

    def may_start(self, gate: Gate, manifest: str, now: Instant) -> bool:
        """Whether this release may pass `gate`, with fresh proof that no order is missing here.

        Where only the proof is missing, the node begins to look for it.
        """
        return self.permits(gate, manifest) and self._leasing.covers(gate, now)

    def require(self, gate: Gate, manifest: str) -> None:
        """Nothing, if the release may pass `gate`.

        Raises:
            Halted: it may not.
        """
        if not self.permits(gate, manifest):
            subject = self.subjects.get(manifest)
            level = self.brake.level(subject) if subject is not None else int(gate)
            raise Halted(manifest[:12], level=level)

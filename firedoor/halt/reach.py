"""What one key's halt of level 5 to 7 reaches, decided once and kept.

* One key reaches these levels for a release where every release of its product with a higher
  counter has the same content: so no thief can walk a fleet down to an old hole.
* That is decided when the halt and a release that it covers are first both known here, and kept
  durably: what is published later, the fix or the same bytes again, lowers nothing, and a range
  makes no older release the newest.
* Kept with it are the contents of the releases that the halt names, for the boot guard, which reads
  no signed metadata.

Source: halt.md, Authority, and its notes of 28 Nov 2026.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from firedoor.halt.order import LEVEL_NARROW, Halt
from firedoor.halt.scope import NAMES_VERSIONS, Subject
from firedoor.identity import Place
from firedoor.units import MIB
from firedoor.wire.codec import decode
from firedoor.wire.messages import Digest

# Contents that one record adds: a publisher's list of releases has some ten thousand.
CONTENTS_MAX = 16_384
RECORD_BYTES_MAX = 2 * MIB

Contents = Annotated[tuple[Digest, ...], Meta(max_length=CONTENTS_MAX)]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is new about one halt.

    `reached`: contents for which its level holds; None: this record does not decide that. `named`:
    contents of releases that its scope names.
    """

    order: Digest
    reached: Contents | None
    named: Contents = ()


class Reach:
    """The decisions of one brake."""

    __slots__ = ("_looked_at", "_named", "_reached")

    def __init__(self) -> None:
        self._reached: dict[bytes, frozenset[bytes]] = {}
        self._named: dict[bytes, frozenset[bytes]] = {}
        # How many releases were known when a halt was last looked at; only more are a reason.
        self._looked_at: dict[bytes, int] = {}

    def restore(self, records: Iterable[bytes]) -> None:
        """Take back what was decided before a restart.

        Raises:
            TooLarge, Malformed: a record that is none.
        """
        for record in records:
            self._keep(decode(Decision, record, what="decision", limit=RECORD_BYTES_MAX))

    def named(self, order: bytes) -> frozenset[bytes]:
        """Contents of releases that this halt names, as far as they were ever known here."""
        return self._named.get(order, frozenset())

    def holds(self, order: bytes, content: bytes) -> bool | None:
        """Whether one key's level holds for this content; None: it is not decided yet."""
        reached = self._reached.get(order)
        return None if reached is None else content in reached

    def decide(
        self,
        halts: Iterable[tuple[Halt, Collection[bytes]]],
        seen: Mapping[str, Collection[Subject]],
        place: Place,
    ) -> list[Decision]:
        """What is decided now and was not before; `halts` with the contents that each denies."""
        known = sum(len(subjects) for subjects in seen.values())
        due = [each for each in halts if self._looked_at.get(each[0].id) != known]
        self._looked_at.update((halt.id, known) for halt, _ in due)
        fresh = [_decision(halt, contents, seen, place) for halt, contents in due]
        return [news for each in fresh if each is not None and (news := self._keep(each))]

    def _keep(self, decision: Decision) -> Decision | None:
        """Remember it; the part of it that is new."""
        order = decision.order
        reached = decision.reached if order not in self._reached else None
        named = frozenset(decision.named) - self.named(order)
        if reached is None and not named:
            return None
        if reached is not None:
            self._reached[order] = frozenset(reached)
        self._named[order] = self.named(order) | named
        return Decision(order, reached, tuple(sorted(named)[:CONTENTS_MAX]))


def _decision(
    halt: Halt,
    contents: Collection[bytes],
    seen: Mapping[str, Collection[Subject]],
    place: Place,
) -> Decision | None:
    names = halt.scope.kind in NAMES_VERSIONS and not halt.is_by_controller
    if halt.level < LEVEL_NARROW and not names:
        return None
    covered = [
        (subject, product)
        for product, subjects in seen.items()
        for subject in subjects
        if halt.scope.covers(subject, contents, place)
    ]
    if not covered:
        return None
    reached = None
    if halt.level >= LEVEL_NARROW:
        newest = {product: _newest_content(seen[product]) for _, product in covered}
        held = {each.content for each, product in covered if each.content in newest[product]}
        reached = tuple(sorted(held))
    named = {each.content for each, _ in covered} if names else set()
    return Decision(halt.id, reached, tuple(sorted(named)))


def _newest_content(subjects: Collection[Subject]) -> frozenset[bytes]:
    newest = max(each.counter for each in subjects)
    return frozenset(each.content for each in subjects if each.counter == newest)

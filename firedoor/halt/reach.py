"""What one key's halt of level 5 to 7 reaches, decided once and kept.

* One key reaches these levels for a release where every release of its product with a higher
  counter has the same content: so no thief can walk a fleet down to an old hole.
* That is decided when the halt and a release that it covers are first both known here, and kept
  durably: what is published later, the fix or the same bytes again, lowers nothing, and a range
  makes no older release the newest.
* Each release that a halt names is kept once, whatever the number of halts: so that its bytes stay
  halted under other names, and for the boot guard, which reads no signed metadata.

Source: halt/README.md, Authority, and its notes of 28 Nov 2026.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from firedoor.halt.order import LEVEL_NARROW, Halt
from firedoor.halt.scope import NAMES_VERSIONS, ScopeKind, Subject
from firedoor.identity import Place
from firedoor.units import MIB
from firedoor.wire.codec import decode
from firedoor.wire.messages import Digest

# Contents that one record adds: a publisher's list of releases has some ten thousand.
CONTENTS_MAX = 16_384
RECORD_BYTES_MAX = 2 * MIB

Contents = Annotated[tuple[Digest, ...], Meta(max_length=CONTENTS_MAX)]

Name = Annotated[str, Meta(max_length=64)]

# Scopes that are about one product, whose releases alone are looked at.
_OF_PRODUCTS = frozenset({ScopeKind.RELEASE, ScopeKind.RANGE, ScopeKind.PRODUCT})


@dataclass(frozen=True, slots=True)
class Decision:
    """Of one halt: the contents that it `reached`, for which its level holds.

    `named`: contents of releases that its scope names, of a log that had these with each halt.
    """

    order: Digest
    reached: Contents | None
    named: Contents = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A release that some halt names, or did."""

    product: Name
    version: Name
    counter: int
    content: Digest
    publisher: Name = ""


class Reach:
    """The decisions of one brake."""

    __slots__ = ("_kept", "_looked_at", "_named", "_reached")

    def __init__(self) -> None:
        self._reached: dict[bytes, frozenset[bytes]] = {}
        self._named: dict[bytes, frozenset[bytes]] = {}
        self._kept: set[Known] = set()
        # Halts that were held against every release that was known then.
        self._looked_at: set[bytes] = set()

    def restore(self, decided: Iterable[bytes], known: Iterable[bytes]) -> list[Subject]:
        """Take back what was decided before a restart; the releases that were kept with it.

        Raises:
            TooLarge, Malformed: a record that is none.
        """
        for record in decided:
            decision = decode(Decision, record, what="decision", limit=RECORD_BYTES_MAX)
            self._named[decision.order] = self.named(decision.order) | set(decision.named)
            if decision.reached is not None:
                self._reached.setdefault(decision.order, frozenset(decision.reached))
        kept = [decode(Known, record, what="release", limit=RECORD_BYTES_MAX) for record in known]
        self._kept |= set(kept)
        return [
            Subject(
                each.product,
                each.version,
                each.content,
                counter=each.counter,
                publisher=each.publisher,
            )
            for each in kept
        ]

    def named(self, order: bytes) -> frozenset[bytes]:
        """Contents that an older log kept with this halt."""
        return self._named.get(order, frozenset())

    def holds(self, order: bytes, content: bytes) -> bool | None:
        """Whether one key's level holds for this content; None: it is not decided yet."""
        reached = self._reached.get(order)
        return None if reached is None else content in reached

    def decide(
        self,
        halts: Iterable[Halt],
        releases: "Releases",
        place: Place,
    ) -> list[Decision | Known]:
        """What is decided now and was not before."""
        found: list[Decision | Known] = []
        fresh = releases.taken()
        for halt in halts:
            names = halt.scope.kind in NAMES_VERSIONS and not halt.is_by_controller
            is_open = halt.level >= LEVEL_NARROW and halt.id not in self._reached
            if not names and not is_open:
                continue
            pool = fresh if halt.id in self._looked_at else releases.under(halt)
            self._looked_at.add(halt.id)
            covered = [each for each in pool if halt.scope.covers(each, halt.contents, place)]
            if names:
                found += self._fresh(covered)
            if is_open and covered:
                found.append(self._decide(halt, releases, place, names=names))
        return found

    def _fresh(self, covered: Iterable[Subject]) -> list[Known]:
        found = []
        for each in covered:
            known = Known(each.product, each.version, each.counter, each.content, each.publisher)
            if known not in self._kept:
                self._kept.add(known)
                found.append(known)
        return found

    def _decide(self, halt: Halt, releases: "Releases", place: Place, *, names: bool) -> Decision:
        covered = {
            each for each in releases.under(halt) if halt.scope.covers(each, halt.contents, place)
        }
        if names:
            covered |= {alias for each in covered for alias in releases.alike(each.content)}
        newest = {each.product: releases.newest(each.product) for each in covered}
        held = {each.content for each in covered if each.content in newest[each.product]}
        self._reached[halt.id] = frozenset(held)
        return Decision(halt.id, tuple(sorted(held)[:CONTENTS_MAX]))


class Releases:
    """Every release that one brake has heard of, by product and by content."""

    __slots__ = ("_alike", "_fresh", "_known", "_newest")

    def __init__(self) -> None:
        self._known: dict[str, dict[Subject, None]] = {}
        # One assignment changes what is alike: a thread that stages a release asks in between.
        self._alike: dict[bytes, tuple[Subject, ...]] = {}
        self._newest: dict[str, int] = {}
        self._fresh: list[Subject] = []

    def add(self, subject: Subject) -> None:
        """This one exists."""
        known = self._known.setdefault(subject.product, {})
        if subject in known:
            return
        known[subject] = None
        self._alike[subject.content] = (*self._alike.get(subject.content, ()), subject)
        self._newest[subject.product] = max(subject.counter, self.highest(subject.product))
        self._fresh.append(subject)

    def taken(self) -> Sequence[Subject]:
        """Those that came since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def alike(self, content: bytes) -> Sequence[Subject]:
        """The releases with this content."""
        return self._alike.get(content, ())

    def highest(self, product: str) -> int:
        """The highest counter of a product; 0 for none."""
        return self._newest.get(product, 0)

    def newest(self, product: str) -> frozenset[bytes]:
        """The contents of the product's releases with the highest counter."""
        highest = self.highest(product)
        known = self._known.get(product, {})
        return frozenset(each.content for each in known if each.counter == highest)

    def under(self, halt: Halt) -> Collection[Subject]:
        """Those that a halt can be about, by its scope's kind."""
        if halt.scope.kind in _OF_PRODUCTS:
            return self._known.get(halt.scope.name, {})
        return [each for known in self._known.values() for each in known]

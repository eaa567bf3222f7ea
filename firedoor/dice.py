"""Dice that a host seeds and a core throws: same seed, same throws, on any machine.

Not for secrets: nonces and keys come from the operating system, in runtime/.
Source: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Dice:
    """A SplitMix64 generator; eight bytes of state."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def throw(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound` - 1.

        The bias of the modulo is below `bound` / 2**64: of no weight for picking peers.
        """
        if bound < 1:
            raise ValueError(f"bound: wanted 1 or more, got {bound}")
        return self.throw() % bound

    def fraction(self) -> float:
        """A number from 0.0 to just below 1.0."""
        return (self.throw() >> 11) / (1 << 53)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, each as likely as the next."""
        return items[self.below(len(items))]

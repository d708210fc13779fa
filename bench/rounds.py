"""Measuring several things in turn, and comparing them round by round."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.load import Sample


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        rounds: How often each is measured, after a round to warm up.
        scale: What part of the calls and keys is used; less than all is only good for a try.
    """

    rounds: int = 5
    scale: float = 1.0

    def some(self, number: int) -> int:
        """Return the part of a number of calls or keys."""
        return max(20, round(number * self.scale))


@dataclass(frozen=True)
class Spread:
    """The median of some values, and how far they lie apart."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return that of some values."""
        found = list(values)
        return cls(median(found), min(found), max(found))

    def times(self, factor: float) -> Spread:
        """Return it with every value multiplied."""
        return Spread(self.median * factor, self.least * factor, self.greatest * factor)


def in_turn(rounds: int, *sides: Callable[[], Sample]) -> list[tuple[Sample, ...]]:
    """Measure all sides in every round, so that a machine that grows slower does so for all.

    The order is turned round each time. The first round is to warm up, and not answered.
    """
    found = []
    for number in range(rounds + 1):
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        measured = {index: sides[index]() for index in order}
        found.append(tuple(measured[index] for index in range(len(sides))))
    return found[1:]


def ratios(rounds: Sequence[tuple[Sample, ...]], quantity: Callable[[Sample], float]) -> Spread:
    """Return the ratio of the first side to the second, round by round."""
    return Spread.of(quantity(each[0]) / quantity(each[1]) for each in rounds)


def medians(rounds: Sequence[tuple[Sample, ...]], quantity: Callable[[Sample], float]) -> list[float]:
    """Return the median of each side."""
    return [median(quantity(sample) for sample in side) for side in zip(*rounds, strict=True)]

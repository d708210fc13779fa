"""Measure several things in turn, and compare them round by round."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self

from bench.load import CallsFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.load import Sample


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: How often each side is measured.
        scale: The part of the calls and keys to use; less than 1 only checks that the benchmark runs.
    """

    rounds: int = 3
    scale: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether the results may be published."""
        return self.scale == 1

    def some(self, number: int) -> int:
        """Return the part of a number of calls or keys."""
        return max(20, round(number * self.scale))


@dataclass(frozen=True)
class Spread:
    """The median of some values, with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return the spread of some values."""
        found = list(values)
        return cls(median(found), min(found), max(found))

    def times(self, factor: float) -> Spread:
        """Return the spread with every value multiplied."""
        return Spread(self.median * factor, self.least * factor, self.greatest * factor)


def in_turn(rounds: int, *sides: Callable[[], Sample], warm: bool = False) -> list[tuple[Sample, ...]]:
    """Measure all sides in every round, so that a machine that becomes slower affects all of them.

    The order is reversed each time. Unless all sides are warm, a first round is not returned.
    """
    found = []
    for number in range(warm, rounds + 1):
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        measured = {index: sides[index]() for index in order}
        found.append(tuple(measured[index] for index in range(len(sides))))
    return found if warm else found[1:]


def again(run: Callable[[], Sample]) -> Sample:
    """Run an open loop, and once more if calls failed: too many wait where the machine stalls for a second."""
    try:
        return run()
    except CallsFailedError as error:
        print(error)  # noqa: T201 - the progress of a command for people
        return run()


def ratios(rounds: Sequence[tuple[Sample, ...]], quantity: Callable[[Sample], float]) -> Spread:
    """Return the ratio of the first side to the second, round by round."""
    return Spread.of(quantity(each[0]) / quantity(each[1]) for each in rounds)


def medians(rounds: Sequence[tuple[Sample, ...]], quantity: Callable[[Sample], float]) -> list[float]:
    """Return the median of each side."""
    return [median(quantity(sample) for sample in side) for side in zip(*rounds, strict=True)]

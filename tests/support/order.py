"""The order of tests in a parallel run, in which each process takes a run of tests of the same length."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

_ENVIRONMENT = Path(__file__).parents[1] / "environment"
# A database with many keys, which takes seconds to make.
_FILLED = "filled"
# What a module of the environment shares: a service, and a built package.
_SHARED = {"surroundings", "wheel"}


def in_order(tests: Iterable[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return tests so that each process begins with some of those that take or wait longest.

    The tests that need the database with many keys go to the first process, and those of a module of the environment
    that share what is made for them go to one process.
    """
    first: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for each in tests:
        (first if _is_long(each) or _ENVIRONMENT in each.path.parents else others).append(each)
    others.sort(key=lambda each: _FILLED not in _fixtures(each))
    first.sort(key=lambda each: (not _is_long(each), _SHARED.isdisjoint(_fixtures(each))))
    together: dict[object, list[pytest.Item]] = defaultdict(list)
    for each in first:
        together[each if _SHARED.isdisjoint(_fixtures(each)) else each.path].append(each)
    groups = list(together.values())
    left = len(first) + len(others)
    ordered: list[pytest.Item] = []
    for number in range(processes):
        length = left // (processes - number)
        mine = [each for group in groups[number::processes] for each in group]
        rest = max(0, length - len(mine))
        ordered += mine + others[:rest]
        others = others[rest:]
        left -= max(length, len(mine))
    return ordered + others


def _is_long(test: pytest.Item) -> bool:
    return test.get_closest_marker("long") is not None


def _fixtures(test: pytest.Item) -> list[str]:
    return getattr(test, "fixturenames", [])

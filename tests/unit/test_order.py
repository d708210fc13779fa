"""The order of tests in a parallel run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.order import in_order

ENVIRONMENT = Path(__file__).parents[1] / "environment"


@dataclass(frozen=True)
class Item:
    """What the order of a test depends on."""

    name: str
    path: Path = Path("test_other.py")
    fixturenames: tuple[str, ...] = ()
    is_long: bool = False

    def get_closest_marker(self, name: str) -> str | None:
        """Return a mark of the test."""
        return name if self.is_long and name == "long" else None


LONG = [Item(f"long {number}", is_long=True) for number in range(5)]
ODD = [
    Item(f"{module} {number}", ENVIRONMENT / module, ("surroundings",))
    for module in ("test_a.py", "test_b.py")
    for number in range(6)
]
WHEEL = [Item(f"wheel {number}", ENVIRONMENT / "test_w.py", ("wheel",), is_long=number == 2) for number in range(4)]
FILLED = [Item(f"filled {number}", fixturenames=("filled",)) for number in range(8)]
OTHERS = [Item(f"other {number}") for number in range(40)]
# As a module has them: mixed.
ALL: list[Any] = [*OTHERS[:20], *FILLED[:4], *ODD, *WHEEL, *OTHERS[20:], *LONG, *FILLED[4:]]


@pytest.mark.parametrize("processes", [1, 2, 4, 7])
def test_each_test_runs_once_and_what_is_shared_is_made_by_one_process(processes: int) -> None:
    """Processes take runs of the same length."""
    ordered: list[Any] = in_order(ALL, processes)
    assert len(ordered) == len(ALL)
    assert set(ordered) == set(ALL)
    length = len(ALL) // processes
    runs = [ordered[number * length : (number + 1) * length] for number in range(processes)]
    if processes <= len(LONG):
        assert all(run[0].is_long for run in runs)
        for shared in (FILLED, ODD[:6], ODD[6:], WHEEL):
            assert sum(not set(shared).isdisjoint(run) for run in runs) == 1

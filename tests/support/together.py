"""Many small cases of one test, run as one: pytest takes longer to prepare and to report such a case than to run it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import wraps
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TOGETHER_IF_SHORT = pytest.mark.together_if_short
"""Marks a test whose cases do not disturb each other: the short form prepares its fixtures once, for all of them."""

_FEW = 3
# A fixture of pytest-asyncio that every test has.
_OF_ALL = {"event_loop_policy"}


class Together(pytest.Item):
    """Some cases of a test. All of them run; the failure names those that fail."""

    def __init__(self, *, cases: Sequence[pytest.Function], **options: Any) -> None:
        super().__init__(**options)
        self._cases = cases

    @classmethod
    def of(cls, cases: Sequence[pytest.Function]) -> Self:
        """Return what runs these cases, which are all of one test."""
        first = cases[0]
        assert first.parent is not None
        name = f"{first.originalname}[{len(cases)} cases]"
        made: Self = cls.from_parent(first.parent, name=name, cases=cases)
        return made

    def runtest(self) -> None:
        """Run all cases. If none fails and one is skipped, it counts as skipped, with the reason."""
        outcomes = _Outcomes()
        for case in self._cases:
            with outcomes.of(case):
                case.obj(**case.callspec.params)
        outcomes.report()

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return where the test is."""
        path, line, _ = self._cases[0].reportinfo()
        return path, line, self.name


class _Outcomes:
    """How cases ended."""

    def __init__(self) -> None:
        self._failed: list[Exception] = []
        self._skipped: BaseException | None = None
        self._count = 0

    @contextmanager
    def of(self, case: pytest.Item) -> Iterator[None]:
        """Note how a case ends, and go on with the next one."""
        self._count += 1
        try:
            yield
        except pytest.skip.Exception as skip:
            self._skipped = skip
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the case
            error.add_note(f"in {case.name}")
            self._failed.append(error)

    def report(self) -> None:
        """Fail with all cases that failed; skip if none did and one was skipped."""
        if self._failed:
            raise ExceptionGroup(f"{len(self._failed)} of {self._count} cases failed", self._failed)
        if self._skipped is not None:
            raise self._skipped


def joined(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the small cases of each test as one, and those marked `together_if_short`. A few stay."""
    found: list[pytest.Item] = []
    marked: dict[object, list[Any]] = {}
    for test, group in groupby(items, _test_of_a_case):
        cases: list[Any] = list(group)
        if test is not None and len(cases) > _FEW:
            found.append(Together.of(cases))
            continue
        for case in cases:
            if key := _prepared_alike(case):
                if key not in marked:
                    marked[key] = []
                    found.append(case)
                marked[key].append(case)
            else:
                found.append(case)
    for alike in marked.values():
        _run_all(alike)
    return found


def _direct_names(item: pytest.Item) -> list[str]:
    """Return the names of the parameters that are no fixtures."""
    names: list[str] = []
    for mark in item.iter_markers("parametrize"):
        if not mark.kwargs.get("indirect"):
            names += re.split(r"\s*,\s*", mark.args[0]) if isinstance(mark.args[0], str) else mark.args[0]
    return names


def _prepared_alike(item: pytest.Item) -> object:
    """Return what is the same for all cases that can run with the same fixtures; None if the test is not marked."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("together_if_short") is None:
        return None
    direct = _direct_names(item)
    given = {name: number for name, number in item.callspec.indices.items() if name not in direct}
    return (item.parent, item.originalname, *sorted(given.items())) if direct else None


def _run_all(cases: Sequence[Any]) -> None:
    """Have the first of these cases run all of them, with its fixtures."""
    first = cases[0]
    run, names = first.obj, _direct_names(first)
    given = [(case, {name: case.callspec.params[name] for name in names}) for case in cases]

    @wraps(run)
    async def together(**fixtures: Any) -> None:
        outcomes = _Outcomes()
        for case, values in given:
            with outcomes.of(case):
                await run(**{**fixtures, **values})
        outcomes.report()

    if len(cases) > 1:
        first.obj = together
        first.name = f"{first.originalname}[{len(cases)} cases, {first.callspec.id}]"
        first._id = first.parent.id.child(first.name)  # noqa: SLF001 - reports name the test by it


def _test_of_a_case(item: pytest.Item) -> object:
    """Return the test of a case that needs nothing but its parameters; None for any other test."""
    if type(item) is not pytest.Function:
        return None
    if any(mark.name != "parametrize" or mark.kwargs.get("indirect") for mark in item.iter_markers()):
        return None
    names = set(_direct_names(item))
    return (item.parent, item.originalname) if names and set(item.fixturenames) - _OF_ALL == names else None

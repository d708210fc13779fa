"""Many small cases of one test, run as one: pytest takes longer to prepare and to report such a case than to run it."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
        failed: list[Exception] = []
        skipped = None
        for case in self._cases:
            try:
                case.obj(**case.callspec.params)
            except pytest.skip.Exception as skip:
                skipped = skip
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the case
                error.add_note(f"in {case.name}")
                failed.append(error)
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(self._cases)} cases failed", failed)
        if skipped is not None:
            raise skipped

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return where the test is."""
        path, line, _ = self._cases[0].reportinfo()
        return path, line, self.name


def joined(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the small cases of each test as one. A few stay as they are."""
    found: list[pytest.Item] = []
    for test, group in groupby(items, _test_of_a_case):
        cases: list[Any] = list(group)
        found += [Together.of(cases)] if test is not None and len(cases) > _FEW else cases
    return found


def _test_of_a_case(item: pytest.Item) -> object:
    """Return the test of a case that needs nothing but its parameters; None for any other test."""
    if type(item) is not pytest.Function:
        return None
    names: set[str] = set()
    for mark in item.iter_markers():
        if mark.name != "parametrize" or mark.kwargs.get("indirect"):
            return None
        names.update(re.split(r"\s*,\s*", mark.args[0]) if isinstance(mark.args[0], str) else mark.args[0])
    return (item.parent, item.originalname) if names and set(item.fixturenames) - _OF_ALL == names else None

"""The changes of the database, and what each of them touches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.levels.pieces import KEY, PARTS, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMES = dict(zip((KEY, *PARTS), ("key", "member", "hats", "tools"), strict=True))


def names(parts: int) -> str:
    """Return the names of parts, for a trace."""
    return "the " + " and ".join(name for part, name in _NAMES.items() if parts & part)


class History:
    """The changes of the database, one after the other. Change 1 leads from epoch 0 to epoch 1."""

    def __init__(self, changes: Sequence[int]) -> None:
        """Make a history of changes that touch these parts."""
        self._touched = tuple(changes)
        self._last = {parts: self._last_touches(parts) for parts in (KEY, *PARTS, WORKSPACE)}

    def __len__(self) -> int:
        """Return the number of changes."""
        return len(self._touched)

    def touched(self, change: int) -> int:
        """Return the parts that a change touches."""
        return self._touched[change - 1]

    def value(self, part: int, epoch: int) -> int:
        """Return the value of a part at an epoch. That of the workspace as a whole is its version."""
        return self._last[part][epoch]

    def first_touch(self, parts: int, after: int, until: int) -> int | None:
        """Return the first change after an epoch, up to another, that touches one of the parts."""
        return next((each for each in range(after + 1, until + 1) if self._touched[each - 1] & parts), None)

    def _last_touches(self, parts: int) -> list[int]:
        last = [0]
        for epoch, touched in enumerate(self._touched, 1):
            last.append(epoch if touched & parts else last[-1])
        return last

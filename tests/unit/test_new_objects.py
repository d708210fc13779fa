"""The collections of new objects leave old ones alone."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.activity.new_objects import NewObjects

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLD = 10


@pytest.fixture
def searched() -> Iterator[list[int]]:
    """Return the generations that are searched; Python does so for all objects after ten searches of new ones."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(100_000, 1, _OLD)
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_old_objects_are_not_searched_more_often(searched: list[int]) -> None:
    """However often new ones are; when the old ones were searched, it counts anew."""
    new_objects = NewObjects()
    kept: list[list[object]] = []
    for _ in range(10 * _OLD):
        kept.extend([] for _ in range(100))
        new_objects.collect()
    kept.extend([] for _ in range(100_000))
    assert set(searched) <= {0, 1}
    assert searched.count(1) >= 10 * _OLD
    assert gc.get_threshold()[2] == 11 * _OLD
    gc.collect()
    new_objects.collect()
    assert gc.get_threshold()[2] == _OLD + 1


def test_garbage_is_found(searched: list[int]) -> None:
    """In the new objects, at once."""
    del searched

    class Looped:
        def __init__(self) -> None:
            self.itself = self

    gone = weakref.ref(Looped())
    assert gone() is not None
    NewObjects().collect()
    assert gone() is None

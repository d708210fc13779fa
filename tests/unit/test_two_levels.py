"""The two levels of memory under many schedules: each answer is that of one state, and of none that is too old.

The model in `tests/model` has the rules; here is the code that follows them. Reads take any time, changes of any parts
come at any moment and are applied at any later one, the lease ends and comes back, and memory is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.domain.difference import Part
from tests.support.lengths import LONG, by_form
from tests.support.memory import ACME, TestedMemory, touched_part
from tests.support.schedules.database import Database, connect
from tests.support.schedules.mistakes import MISTAKES, PROGRESS_ONLY
from tests.support.schedules.plant import Edit, plant
from tests.support.schedules.reader import Reader
from tests.support.schedules.schedule import play
from tests.support.schedules.stories import STORIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.schedules.schedule import Story

SEEDS = by_form(50, 1000, 3000)
ENOUGH = by_form(100, 2000)
"""Within so many seeds each mistake is found: by its story, or in the long form by all stories and chance."""


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the statements of storage ask the database of the schedule."""
    connect(monkeypatch)


def mixed(first: int, count: int) -> Iterator[tuple[int, Story | None]]:
    """Yield seeds: each third one goes by chance, the others go by the stories in turn."""
    for seed in range(first, first + count):
        turn, kind = divmod(seed, 3)
        yield seed, STORIES[(2 * turn + kind - 1) % len(STORIES)] if kind else None


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_each_answer_is_that_of_one_state_that_is_not_too_old(first: int) -> None:
    """By a lease or without, from memory or loaded, whatever overtakes it."""
    answers = list(play(mixed(first, 50)))
    assert len(answers) == 50
    assert sum(answers) > 250


@pytest.mark.parametrize(("story", "edits"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_found(story: Story | None, edits: tuple[Edit, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some schedule shows it, so that the schedules above prove something. The short form takes the best story."""
    for edit in edits:
        plant(edit, monkeypatch)
    seeds = mixed(0, ENOUGH) if LONG else ((seed, story) for seed in range(ENOUGH))
    with pytest.raises((AssertionError, LookupError)):
        list(play(seeds))


@pytest.mark.parametrize("edit", PROGRESS_ONLY.values(), ids=PROGRESS_ONLY)
def test_rules_for_progress_only_are_not_needed_for_safety(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/fence.md says: without them calls take longer, and no answer is wrong."""
    plant(edit, monkeypatch)
    assert sum(play(mixed(0, by_form(8, 200)))) > 30


def test_a_schedule_depends_on_its_seed_only() -> None:
    """Else a mistake that was found could not be looked into."""
    seeds = list(mixed(0, 10))
    assert list(play(seeds)) == list(play(seeds))


async def test_a_member_that_is_read_again_leaves_the_tool_sets_of_all_others() -> None:
    """Nothing of the workspace is made again; all members at once make a new snapshot, with the same contents."""
    memory = TestedMemory()
    database = Database(memory.clock, nothing)
    reader, store = Reader(database, memory), memory.snapshots
    store._reads = FencedReads(database, memory.lease)  # type: ignore[arg-type]  # noqa: SLF001 - they need each other
    before = await store.load(ACME, whole=False)
    for touch, same in ((touched_part(Part.MEMBER, "ann"), True), (touched_part(Part.MEMBER), False)):
        database.change(touch)
        reader.apply()
        after = await store.load(ACME, whole=False)
        assert (after is before, after.contents is before.contents) == (same, True)
        assert (after.missing, after.complete, after.version) == ({}, True, 1 + database.epoch)
        assert set(after.members) == {"ann", "bob"}
        assert store.current(ACME) is after
    memory.offload.close()


async def nothing() -> None:
    """Do not wait."""

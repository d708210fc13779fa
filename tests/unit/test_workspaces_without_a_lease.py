"""Workspaces that are read without a lease: they are used at exactly their version, until memory is dropped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.domain.difference import Part
from tests.support.memory import ACME, TestedMemory, touched_part, turns
from tests.support.schedules.database import Database, connect
from tests.support.schedules.world import ANN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.app.authorization.snapshots import Snapshots


class Slow:
    """A database on which each statement has to be let go on, when it is sent and when it is answered.

    Attributes:
        waiting: What waits.
    """

    def __init__(self, memory: TestedMemory) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.database = Database(memory.clock, self._pause)

    async def _pause(self) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    async def answer(self) -> int:
        """Let all statements that are under way be answered, and return how many those were."""
        count = 0
        await turns()
        while self.waiting:
            self.waiting.pop().set_result(None)
            count += 1
            await turns()
        return count // 2


@pytest.fixture
def memory() -> Iterator[TestedMemory]:
    """An empty memory, without a lease."""
    memory = TestedMemory()
    memory.lapse()
    yield memory
    memory.offload.close()


@pytest.fixture
def slow(memory: TestedMemory, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Its database."""
    connect(monkeypatch)
    slow = Slow(memory)
    memory.snapshots._reads = FencedReads(slow.database, memory.lease)  # type: ignore[arg-type]  # noqa: SLF001 - they need each other
    return slow


async def read_at(store: Snapshots, slow: Slow, version: int) -> tuple[bool, int]:
    """Return whether a workspace was found at a version, and by how many statements."""
    task = asyncio.create_task(store.at(ACME, version, ANN))
    count = await slow.answer()
    return await task is not None, count


async def test_a_workspace_is_read_once_for_each_version(memory: TestedMemory, slow: Slow) -> None:
    """Of an older version it is not found, as it cannot be read any more."""
    store = memory.snapshots
    assert [await read_at(store, slow, 1) for _ in range(2)] == [(True, 1), (True, 0)]
    slow.database.change(touched_part(Part.HAT, "p"))
    assert await read_at(store, slow, 2) == (True, 1)
    assert await read_at(store, slow, 1) == (False, 1)
    assert await read_at(store, slow, 2) == (True, 0)


async def test_calls_share_a_read_of_a_version(memory: TestedMemory, slow: Slow) -> None:
    """While it is under way."""
    tasks = [asyncio.create_task(memory.snapshots.at(ACME, 1, ANN)) for _ in range(3)]
    assert await slow.answer() == 1
    found = await asyncio.gather(*tasks)
    assert found[0] is not None
    assert found == [found[0]] * 3


async def test_versions_of_before_memory_was_dropped_are_not_used(memory: TestedMemory, slow: Slow) -> None:
    """The database may have lost them and give their numbers again. Nor is what was being read at that moment kept."""
    store = memory.snapshots
    assert await read_at(store, slow, 1) == (True, 1)
    memory.memory.drop_all()
    late = asyncio.create_task(store.at(ACME, 1, ANN))
    await turns()
    memory.memory.drop_all()
    again = asyncio.create_task(store.at(ACME, 1, ANN))
    assert await slow.answer() == 2, "the second does not share the read of the first"
    assert await late is not await again
    memory.memory.drop_all()
    late = asyncio.create_task(store.at(ACME, 1, ANN))
    await turns()
    memory.memory.drop_all()
    assert await slow.answer() == 1
    assert await late is not None
    assert await read_at(store, slow, 1) == (True, 1)

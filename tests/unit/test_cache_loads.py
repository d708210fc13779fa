"""The loads that fill the cache: who shares one, which are kept, and what changes, errors and cancelled callers do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.ids import new_key_id
from tests.support.memory import ACME, GLOBEX, Memory, minted, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys.app.authorization.cache import KnownKey, Load
    from skilder_keys.domain.token import Token


@pytest.fixture
def memory() -> Memory:
    """An empty cache."""
    return Memory()


async def test_the_same_query_at_the_same_time_is_loaded_once(memory: Memory) -> None:
    """The result is in memory afterwards; a different query is a load of its own."""
    token = minted()
    tasks = [asyncio.create_task(memory.load(token)) for _ in range(5)]
    other = asyncio.create_task(memory.cache.load("else", token.key_id, memory.reading(token)))
    await turns()
    assert len(memory.reads) == 2
    memory.let_go(0)
    found = await asyncio.gather(*tasks)
    assert all(each is found[0] for each in found)
    assert memory.cache.find(token.reveal()) is found[0]
    assert not other.done()
    memory.let_go(1)
    await other


async def test_an_unknown_key_is_not_cached(memory: Memory) -> None:
    """A key that is issued a moment later is found a moment later."""
    token = minted()

    async def nothing(_: Load) -> KnownKey | None:
        return None

    assert await memory.cache.load("q", token.key_id, nothing) is None
    assert len(memory.cache) == 0
    assert await memory.keep(token) is not None


async def change_key(memory: Memory, token: Token) -> None:
    """Apply a change of the token's key."""
    memory.cache.drop([token.key_id], ())


async def change_workspace(memory: Memory, _: Token) -> None:
    """Apply a change of a workspace. The load may belong to it: it does not know its workspace yet."""
    memory.cache.drop((), [ACME])


async def change_any_workspace(memory: Memory, _: Token) -> None:
    """Apply the same change, though the load will turn out to belong to another workspace."""
    memory.cache.drop((), [GLOBEX])


async def change_all(memory: Memory, _: Token) -> None:
    """Drop everything."""
    memory.cache.drop_all()


@pytest.mark.parametrize("change", [change_key, change_workspace, change_any_workspace, change_all])
async def test_an_invalidated_load_serves_only_those_who_already_waited(
    memory: Memory, change: Callable[[Memory, Token], Awaitable[None]]
) -> None:
    """It is not cached; a caller that comes after the change gets a new load, which is cached."""
    token = minted()
    before = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    await change(memory, token)
    after = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    assert len(memory.reads) == 2
    memory.let_go(0)
    old = await asyncio.gather(*before)
    assert old[0] is not None
    assert old[0] is old[1]
    assert memory.cache.find(token.reveal()) is None
    late = asyncio.create_task(memory.load(token))
    await turns()
    assert len(memory.reads) == 2, "the end of the old load does not end the new one"
    memory.let_go(1)
    new = await asyncio.gather(*after, late)
    assert len({id(each) for each in new}) == 1
    assert new[0] is not old[0]
    assert memory.cache.find(token.reveal()) is new[0]


async def test_an_unrelated_change_does_not_invalidate_a_load(memory: Memory) -> None:
    """A change of another key, or of another workspace once the load knows which workspace it reads."""
    token = minted()
    task = asyncio.create_task(memory.load(token))
    await turns()
    memory.cache.drop([new_key_id()], ())
    memory.reads[0][0].workspace_id = ACME
    memory.cache.drop((), [GLOBEX])
    memory.let_go(0)
    known = await task
    assert memory.cache.find(token.reveal()) is known


async def test_two_changes_invalidate_each_load_once(memory: Memory) -> None:
    """Loads that began between two changes are invalidated by the second; the newest load is kept."""
    token = minted()
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(memory.load(token)))
        await turns()
        if len(tasks) < 3:
            memory.cache.drop([token.key_id], ())
    assert len(memory.reads) == 3
    for index in (2, 0, 1):
        memory.let_go(index)
        await turns()
    found = [await task for task in tasks]
    assert memory.cache.find(token.reveal()) is found[2]


async def test_without_a_lease_nothing_is_shared_and_nothing_is_kept(memory: Memory) -> None:
    """Each caller loads for itself, even while a load is running that began under a lease."""
    token = minted()
    first = asyncio.create_task(memory.load(token))
    await turns()
    memory.lapse()
    alone = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    assert len(memory.reads) == 3
    memory.let_go(1)
    memory.let_go(2)
    found = await asyncio.gather(*alone)
    assert found[0] is not found[1]
    assert len(memory.cache) == 0
    memory.renew()
    assert memory.cache.find(token.reveal()) is None
    memory.let_go(0)
    assert await first is not None


async def test_a_load_that_outlives_a_lease_is_kept_if_nothing_changed(memory: Memory) -> None:
    """The fence applies all missed changes before it renews the lease, and a change would invalidate the load."""
    token = minted()
    task = asyncio.create_task(memory.load(token))
    await turns()
    memory.lapse()
    memory.let_go(0)
    known = await task
    assert memory.cache.find(token.reveal()) is None
    memory.renew()
    assert memory.cache.find(token.reveal()) is known


async def test_a_failed_load_fails_for_all_and_leaves_nothing_behind(memory: Memory) -> None:
    """The next caller loads again. A failure that nobody waited for is reported to nobody."""
    token = minted()
    for invalidated in (False, True):
        tasks = [asyncio.create_task(memory.load(token)) for _ in range(3)]
        await turns()
        if invalidated:
            memory.cache.drop([token.key_id], ())
        memory.reads[-1][1].set_exception(OSError("gone"))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [repr(each) for each in found] == ["OSError('gone')"] * 3
        assert memory.cache.find(token.reveal()) is None
    task = asyncio.create_task(memory.load(token))
    await turns()
    task.cancel()
    memory.reads[-1][1].set_exception(OSError("nobody waits for this"))
    await turns()
    assert await memory.keep(token) is not None


async def test_a_cancelled_caller_does_not_stop_the_load(memory: Memory) -> None:
    """Even if it started the load. When all callers have gone, the result is still cached."""
    token = minted()
    first, second = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    first.cancel()
    await turns()
    memory.let_go(0)
    assert await second is not None
    assert first.cancelled()
    alone = minted()
    task = asyncio.create_task(memory.load(alone))
    await turns()
    task.cancel()
    await turns()
    memory.let_go(1)
    await turns()
    assert memory.cache.find(alone.reveal()) is not None
    assert len(memory.reads) == 2

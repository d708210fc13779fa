"""The loads of keys: who shares one, which are kept, and what changes, errors and cancelled callers do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.app.authorization.key_load import KeyLoad
from skilder_keys.app.authorization.snapshot import OPEN
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import BusyError
from skilder_keys.domain.revision import Revision
from tests.support.ids import new_key_id
from tests.support.memory import (
    ACME,
    GLOBEX,
    TestedMemory,
    minted,
    touched_key,
    touched_keys,
    touched_part,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.domain.token import Token
    from skilder_keys.storage.fence import Touch


@pytest.fixture
def memory() -> TestedMemory:
    """An empty memory."""
    return TestedMemory()


async def test_the_same_token_at_the_same_time_is_loaded_once(memory: TestedMemory) -> None:
    """The result is in memory afterwards; another token of the same key is a load of its own."""
    token = minted()
    tasks = [asyncio.create_task(memory.load(token)) for _ in range(5)]
    other = asyncio.create_task(memory.load(token, digest=b"else"))
    await turns()
    assert len(memory.reads) == 2
    memory.let_go(0)
    found = await asyncio.gather(*tasks)
    assert all(each is found[0] for each in found)
    assert memory.keys.find(token.reveal()) is found[0]
    assert not other.done()
    memory.let_go(1)
    await other


async def test_an_unknown_key_is_not_kept(memory: TestedMemory) -> None:
    """A key that is issued a moment later is found a moment later."""
    token = minted()

    async def nothing() -> KnownKey | None:
        return None

    assert await memory.load(token, read=nothing) is None
    assert len(memory.keys) == 0
    assert await memory.keep(token) is not None


@pytest.mark.parametrize("touch", [lambda token: touched_key(token.key_id), lambda _: touched_keys(ACME)])
async def test_an_overtaken_load_serves_only_those_who_already_waited(
    memory: TestedMemory, touch: Callable[[Token], Touch]
) -> None:
    """It is not kept; a caller that comes after the change gets a new load, which is kept."""
    token = minted()
    before = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    memory.change(touch(token))
    after = [asyncio.create_task(memory.load(token)) for _ in range(2)]
    await turns()
    assert len(memory.reads) == 2
    memory.let_go(0)
    old = await asyncio.gather(*before)
    assert old[0] is not None
    assert old[0] is old[1]
    assert old[0].until == memory.lease.epoch - 1
    assert memory.keys.find(token.reveal()) is None
    late = asyncio.create_task(memory.load(token))
    await turns()
    assert len(memory.reads) == 2, "the end of the old load does not end the new one"
    memory.let_go(1)
    new = await asyncio.gather(*after, late)
    assert len({id(each) for each in new}) == 1
    assert new[0] is not old[0]
    assert memory.keys.find(token.reveal()) is new[0]


async def test_other_changes_do_not_touch_a_load(memory: TestedMemory) -> None:
    """A change of another key, of all keys of another workspace, or of any part of a workspace."""
    token = minted()
    task = asyncio.create_task(memory.load(token))
    await turns()
    memory.change(touched_key(new_key_id()), touched_part(Part.WORKSPACE), touched_part(Part.MEMBER, "ann"))
    memory.change(touched_keys(GLOBEX))
    memory.let_go(0)
    known = await task
    assert known is not None
    assert known.until == OPEN
    assert memory.keys.find(token.reveal()) is known


async def test_a_load_that_has_read_a_change_already_is_kept(memory: TestedMemory) -> None:
    """The change is applied while the load is under way, but the load was executed after it."""
    token = minted()
    released = asyncio.get_running_loop().create_future()
    ahead = memory.known(token, label=memory.lease.epoch + 1)

    async def read() -> KnownKey | None:
        await released
        return ahead

    task = asyncio.create_task(memory.load(token, read=read))
    await turns()
    memory.change(touched_key(token.key_id))
    released.set_result(None)
    assert await task is ahead
    assert memory.keys.find(token.reveal()) is ahead
    memory.change(touched_key(token.key_id))
    assert memory.keys.find(token.reveal()) is None


async def test_a_load_ahead_of_memory_is_kept_once_memory_has_caught_up(memory: TestedMemory) -> None:
    """Until then it is nowhere; and if a change after it comes first, it is closed before that."""
    for touched in (False, True):
        token = minted()
        ahead = memory.known(token, label=memory.lease.epoch + 2)

        async def read(ahead: KnownKey = ahead) -> KnownKey | None:
            return ahead

        task = asyncio.create_task(memory.load(token, read=read))
        await turns()
        memory.change()
        await turns()
        assert not task.done()
        assert memory.keys.find(token.reveal()) is None
        memory.change(touched_key(token.key_id))
        if touched:
            memory.change(touched_key(token.key_id))
        assert await task is ahead
        assert (memory.keys.find(token.reveal()) is ahead) is not touched
        assert ahead.until == (memory.lease.epoch - 1 if touched else OPEN)


async def test_a_load_ahead_of_a_memory_that_lost_its_lease_is_not_kept(memory: TestedMemory) -> None:
    """It was right at its label, and nobody notes later changes there."""
    token = minted()
    ahead = memory.known(token, label=memory.lease.epoch + 1)

    async def read() -> KnownKey | None:
        memory.lapse()
        return ahead

    assert await memory.load(token, read=read) is ahead
    assert ahead.until == ahead.label
    memory.renew()
    assert memory.keys.find(token.reveal()) is None


async def test_two_changes_overtake_each_load_once(memory: TestedMemory) -> None:
    """Loads that began between two changes are overtaken by the second; the newest load is kept."""
    token = minted()
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(memory.load(token)))
        await turns()
        if len(tasks) < 3:
            memory.change(touched_key(token.key_id))
    assert len(memory.reads) == 3
    for index in (2, 0, 1):
        memory.let_go(index)
        await turns()
    found = [await task for task in tasks]
    assert memory.keys.find(token.reveal()) is found[2]
    assert [each and each.until for each in found] == [0, 1, OPEN]


async def test_a_failed_load_fails_for_all_and_leaves_nothing_behind(memory: TestedMemory) -> None:
    """The next caller loads again. A failure that nobody waited for is reported to nobody."""
    token = minted()
    for overtaken in (False, True):
        tasks = [asyncio.create_task(memory.load(token)) for _ in range(3)]
        await turns()
        if overtaken:
            memory.change(touched_key(token.key_id))
        memory.reads[-1].set_exception(OSError("gone"))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [repr(each) for each in found] == ["OSError('gone')"] * 3
        assert memory.keys.find(token.reveal()) is None
    task = asyncio.create_task(memory.load(token))
    await turns()
    task.cancel()
    memory.reads[-1].set_exception(OSError("nobody waits for this"))
    await turns()
    assert await memory.keep(token) is not None


async def test_a_cancelled_caller_does_not_stop_the_load(memory: TestedMemory) -> None:
    """Even if it started the load. When all callers have gone, the result is still kept."""
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
    assert memory.keys.find(alone.reveal()) is not None


async def test_a_load_that_nobody_waits_for_any_more_does_not_get_its_turn(memory: TestedMemory) -> None:
    """It still waits for its turn when the last of its callers gives up. While one remains, it stays."""
    lanes = memory.take_places()

    def calls(token: Token) -> list[asyncio.Task[KnownKey | None]]:
        return [asyncio.create_task(memory.load(token)) for _ in range(2)]

    unwanted, wanted, wanted_again = minted(), minted(), minted()
    waiting = [calls(token) for token in (unwanted, wanted, wanted_again)]
    await turns()
    for each in (*waiting[0], waiting[1][0], *waiting[2]):
        each.cancel()
    await turns()
    again = calls(wanted_again)
    await turns()
    for lane in lanes:
        lane.end()
    await turns()
    assert len(memory.reads) == 2, "not of the one that nobody wants"
    memory.let_go(0)
    memory.let_go(1)
    assert await waiting[1][1] is memory.keys.find(wanted.reveal())
    assert set(await asyncio.gather(*again)) == {memory.keys.find(wanted_again.reveal())}


async def test_a_change_does_not_overtake_a_load_that_waits_for_its_turn(memory: TestedMemory) -> None:
    """The load reads the state after the change, so later calls join it, and it is kept."""
    lanes = memory.take_places()

    token = minted()
    calls = []
    for touch in (touched_key(token.key_id), touched_keys(ACME)):
        calls.append(asyncio.create_task(memory.load(token)))
        await turns()
        memory.change(touch)
    calls.append(asyncio.create_task(memory.load(token)))
    await turns()
    for lane in lanes:
        lane.end()
    await turns()
    assert len(memory.reads) == 1
    memory.let_go(0)
    found = await asyncio.gather(*calls)
    known = memory.keys.find(token.reveal())
    assert known is not None
    assert found == [known] * 3


async def test_a_change_of_many_keys_looks_at_no_load_of_another_key(
    memory: TestedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many loads are under way, a key that changes costs the same."""
    tokens = [minted() for _ in range(3)]
    tasks = [asyncio.create_task(memory.load(token)) for token in tokens]
    await turns()
    looks = 0

    def look(load: KeyLoad, name: str) -> Any:
        nonlocal looks
        looks += 1
        return object.__getattribute__(load, name)

    with monkeypatch.context() as counting:
        counting.setattr(KeyLoad, "__getattribute__", look)
        memory.change(*(touched_key(new_key_id()) for _ in range(100)))
        assert looks == 0
        memory.change(touched_key(tokens[0].key_id))
        assert 0 < looks < 10
    for index in range(len(tokens)):
        memory.let_go(index)
    assert [known and known.until for known in await asyncio.gather(*tasks)] == [1, OPEN, OPEN]


async def test_a_load_that_waited_when_memory_was_dropped_is_not_kept(memory: TestedMemory) -> None:
    """It may read before the reader is registered again, and end afterwards: what changed in between is not applied."""
    token = minted()
    lanes = memory.take_places()

    task = asyncio.create_task(memory.load(token))
    await turns()
    memory.memory.drop_all()
    for lane in lanes:
        lane.end()
    await turns()
    assert len(memory.reads) == 1
    memory.lease.revision = Revision(9, 9)
    memory.let_go(0)
    found = await task
    assert found is not None
    assert found.until < found.label
    assert memory.keys.find(token.reveal()) is None


async def test_a_load_whose_turn_came_when_its_last_caller_gave_up_gives_it_back(memory: TestedMemory) -> None:
    """It is read all the same, and kept."""
    lanes = memory.take_places()
    token = minted()
    call = asyncio.create_task(memory.load(token))
    await turns()
    lanes[0].end()
    call.cancel()
    await turns()
    memory.let_go(0)
    await turns()
    assert call.cancelled()
    assert memory.keys.find(token.reveal()) is not None
    assert len(memory.take_places(1)) == 1


async def test_a_load_for_which_there_is_no_place_leaves_nothing_behind(memory: TestedMemory) -> None:
    """It is refused at once; when there is a place, the next call has a load of its own."""
    memory.gate = FirstSights(memory.clock, 0, at_once=1)
    (lane,) = memory.take_places(1)
    token = minted()
    with pytest.raises(BusyError):
        await memory.load(token)
    lane.end()
    assert await memory.keep(token) is memory.keys.find(token.reveal())


async def test_a_load_that_waits_for_memory_ends_with_the_process(memory: TestedMemory) -> None:
    """Its calls are cancelled."""
    token = minted()
    ahead = memory.known(token, label=memory.lease.epoch + 1)

    async def read() -> KnownKey | None:
        return ahead

    call = asyncio.create_task(memory.load(token, read=read))
    await turns()
    for task in memory.keys._tasks:  # noqa: SLF001 - other tests have tasks in the same event loop
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    memory.change()
    assert memory.keys.find(token.reveal()) is None

"""First sights under overload: who has to wait for whom, and who is refused."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import pytest

from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.errors import BusyError
from skilder_keys.domain.token import KeyType, Token
from skilder_keys.storage import snapshots
from tests.support.fence import LONG
from tests.support.fleet import Process, process, until
from tests.support.ids import new_key_id
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.app.authorization.first_sights import FirstSights

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Process]:
    """A process that loads one key and one workspace at a time, and lets ten others wait."""
    async with process(database_url, lease=LONG, at_once=1, max_waiting=10) as made:
        await made.apply()
        await made.follow()
        yield made


class Overload(AsyncExitStack):
    """The loads that take all places of a gate, until the end of the context."""

    def __init__(self, gate: FirstSights, callers: int = 10) -> None:
        super().__init__()
        self._gate = gate
        self._callers = callers
        self._waiting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Take them."""
        await super().__aenter__()
        await self.enter_async_context(self._gate.lane("first"))
        self._waiting = [asyncio.create_task(self._wait(caller)) for caller in range(self._callers)]
        await until(lambda: self._gate.waiting == self._callers)
        self.push_async_callback(self._end)
        return self

    async def _wait(self, caller: int) -> None:
        async with self._gate.lane("next", caller):
            pass

    async def _end(self) -> None:
        for each in self._waiting:
            each.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)


def queries(*tokens: str) -> list[AuthorizeQuery]:
    """Return what a batch asks about the tokens."""
    return [AuthorizeQuery(token, None) for token in tokens]


async def test_a_batch_of_known_keys_is_decided_whatever_waits(one: Process) -> None:
    """It has no first sight. With one, it is refused."""
    (_, known), (_, new) = await one.issue(), await one.issue()
    assert await one.outcome(known) == "granted"
    async with Overload(one.gates.keys):
        decisions, _ = await one.authorizer.authorize_all(queries(known, known))
        assert [each.denied for each in decisions] == [None, None]
        with pytest.raises(BusyError):
            await one.authorizer.authorize_all(queries(known, new))
    assert await one.outcome(new) == "granted"


async def test_those_who_are_not_known_take_no_first_sights_from_others(one: Process) -> None:
    """However many tokens of runtime instances they send. And the others take none from instances."""
    _, token = await one.issue()
    runtimes = [(await one.issue(KeyType.RUNTIME, runtime_id=f"runtime-{number}"))[1] for number in range(2)]
    async with Overload(one.gates.strangers):
        with pytest.raises(BusyError):
            await one.authorizer.identify_runtime(Token.mint(KeyType.RUNTIME, new_key_id()).reveal(), "")
        assert await one.outcome(token) == "granted"
        assert await one.outcome(runtimes[0]) == "granted"
    async with Overload(one.gates.keys):
        found = await one.authorizer.identify_runtime(runtimes[1], "")
        assert found is not None
        assert found.name == "runtime:runtime-1"
        with pytest.raises(BusyError):
            await one.outcome((await one.issue())[1])


async def test_a_caller_takes_turns_with_one_that_has_many_first_sights(one: Process) -> None:
    """It waits for the load under way and for one more, not for all."""
    tokens = [(await one.issue())[1] for _ in range(6)]
    order: list[str] = []

    async def ask(caller: str, token: str) -> None:
        await one.authorizer.authorize(AuthorizeQuery(token, None), caller=caller)
        order.append(caller)

    async with one.gates.keys.lane("first"):
        calls = [asyncio.create_task(ask("many", token)) for token in tokens[:5]]
        await until(lambda: one.gates.keys.waiting == 5)
        calls.append(asyncio.create_task(ask("one", tokens[5])))
        await until(lambda: one.gates.keys.waiting == 6)
    await asyncio.gather(*calls)
    assert "one" in order[:3]


async def test_a_batch_that_is_given_up_leaves_no_loads_behind(one: Process) -> None:
    """Not even those that it had begun to make when its caller left."""
    tokens = [Token.mint(KeyType.WORKSPACE, new_key_id()).reveal() for _ in range(200)]
    before = asyncio.all_tasks()
    async with one.gates.keys.lane("first"):
        batch = asyncio.create_task(one.authorizer.authorize_all(queries(*tokens)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(asyncio.all_tasks() - before) < len(tokens)
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before
    async with asyncio.timeout(60):
        decisions, _ = await one.authorizer.authorize_all(queries(*tokens[:3]))
    assert len(decisions) == 3


@pytest.mark.parametrize("leased", [True, False])
async def test_workspaces_not_in_memory_have_places_of_their_own(one: Process, *, leased: bool) -> None:
    """Where these are full, a call about such a workspace is refused; one about a workspace in memory is not."""
    (_, known), (_, new) = await one.issue(), await one.issue()
    await one.apply(small_workspace("globex"))
    _, other = await one.issue(workspace_id="globex")
    assert await one.outcome(known) == "granted"
    if not leased:
        await one.freeze()
        one.lease.end()
    async with Overload(one.gates.workspaces):
        assert await one.outcome(known) == "granted"
        assert await one.outcome(new) == "granted"
        for _ in range(2):
            with pytest.raises(BusyError) as caught:
                await one.outcome(other)
        assert caught.value.retry_after is not None
    assert one.gates.refused == 2
    assert await one.outcome(other) == "granted"


async def test_a_workspace_for_which_nobody_waits_any_more_is_not_read(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one call remains, it is. The whole of a batch waits in one lane, however many workspaces it needs."""
    tokens = []
    for name in ("globex", "initech", "umbrella"):
        await one.apply(small_workspace(name))
        tokens.append((await one.issue(workspace_id=name))[1])
    read, original = [], snapshots.read

    async def noted(connection: object, workspace_id: str, wanted: object) -> object:
        read.append(workspace_id)
        return await original(connection, workspace_id, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "read", noted)
    async with Overload(one.gates.workspaces, callers=8):
        batch = asyncio.create_task(one.authorizer.authorize_all(queries(*tokens[1:])))
        calls = [asyncio.create_task(one.outcome(tokens[0])) for _ in range(2)]
        await until(lambda: one.gates.workspaces.waiting == 11)
        calls[0].cancel()
        batch.cancel()
        await asyncio.gather(calls[0], batch, return_exceptions=True)
    assert await calls[1] == "granted"
    assert read == ["globex"]
    decisions, _ = await one.authorizer.authorize_all(queries(*tokens))
    assert [each.denied for each in decisions] == [None] * 3

"""The queue of checks: a flood of wrong secrets for one key blocks at worst that key."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app.authorization.verifier import MAX_QUEUE
from skilder_keys.domain.errors import BusyError
from skilder_keys.domain.hashing import HashParameters
from skilder_keys.domain.token import KeyType, Token
from tests.support.fence import LONG
from tests.support.fleet import CountingHasher, process, until

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]


class PausedHasher(CountingHasher):
    """A hasher whose checks wait for the test, and that records their keys."""

    def __init__(self) -> None:
        super().__init__(HashParameters(memory_kib=8))
        self.started: list[object] = []
        self.open = threading.Semaphore(0)

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Wait, then verify."""
        self.started.append(token.key_id)
        self.open.acquire()
        return super().verifies(token, secret_hash)

    def let_go(self, count: int = 1) -> None:
        """Release this many checks."""
        self.open.release(count)


async def test_a_flood_for_one_key_does_not_keep_the_others_waiting(database_url: str) -> None:
    """Of two threads one is left to them. With one thread they wait for one wrong check, not for all."""
    for threads in (1, 2):
        hasher = PausedHasher()
        async with process(database_url, lease=LONG, hasher=hasher, threads=threads) as made:
            await made.apply()
            await made.follow()
            flooded, right = await made.issue()
            others = [await made.issue() for _ in range(3)]
            flood = [
                asyncio.create_task(made.outcome(Token.mint(KeyType.WORKSPACE, flooded.id).reveal()))
                for _ in range(MAX_QUEUE - 1)
            ]
            while hasher.started != [flooded.id]:
                await asyncio.sleep(0.001)
            waiting = [asyncio.create_task(made.outcome(token)) for _, token in others]
            rightful = asyncio.create_task(made.outcome(right))
            while not all(task.done() for task in waiting):
                hasher.let_go()
                await asyncio.sleep(0.001)
            started = list(hasher.started)
            assert {key.id for key, _ in others} <= set(started)
            last = max(started.index(key.id) for key, _ in others)
            assert started[:last].count(flooded.id) <= 4, "each of the others waits for one check of the flood at most"
            assert [task.result() for task in waiting] == ["granted"] * 3
            hasher.let_go(2 * MAX_QUEUE)
            assert set(await asyncio.gather(*flood)) == {"UNKNOWN"}
            assert await rightful == "granted"


async def test_the_number_of_waiting_checks_of_one_key_is_bounded(database_url: str) -> None:
    """Further calls are asked to retry, which is no decision. After the flood all is as before."""
    hasher = PausedHasher()
    async with process(database_url, lease=LONG, hasher=hasher) as made:
        await made.apply()
        await made.follow()
        key, token = await made.issue()
        flood = [
            asyncio.create_task(made.outcome(Token.mint(KeyType.WORKSPACE, key.id).reveal()))
            for _ in range(MAX_QUEUE + 20)
        ]
        await until(lambda: sum(task.done() for task in flood) == 20)
        assert [type(task.exception()) for task in flood if task.done()] == [BusyError] * 20
        with pytest.raises(BusyError):
            await made.outcome(token)
        hasher.let_go(2 * MAX_QUEUE)
        found = await asyncio.gather(*flood, return_exceptions=True)
        assert found.count("UNKNOWN") == MAX_QUEUE
        assert await made.outcome(token) == "granted"


@pytest.mark.parametrize("leased", [True, False])
async def test_one_token_in_very_many_concurrent_calls_is_verified_once(database_url: str, *, leased: bool) -> None:
    """A good key that everybody uses when a process starts is accepted, with or without a lease."""
    async with process(database_url, lease=LONG) as made:
        await made.apply()
        if leased:
            await made.follow()
        _, token = await made.issue()
        found = await asyncio.gather(*(made.outcome(token) for _ in range(5 * MAX_QUEUE)))
        assert set(found) == {"granted"}
        assert made.hasher.checks == 1

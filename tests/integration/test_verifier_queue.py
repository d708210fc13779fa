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
from tests.support.ids import new_key_id
from tests.support.lengths import by_form

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.domain.ids import KeyId

    Sql = asyncpg.Connection[Any]


class PausedHasher(CountingHasher):
    """A hasher whose checks wait for the test: all, or those of one key.

    Attributes:
        paused: The key whose checks wait; None: those of all keys.
        started: How many such checks have begun.
    """

    def __init__(self) -> None:
        super().__init__(HashParameters(memory_kib=8))
        self.paused: KeyId | None = None
        self.started = 0
        self._open = threading.Semaphore(0)

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Wait, then verify."""
        if self.paused in (None, token.key_id):
            self.started += 1
            self._open.acquire()
        return super().verifies(token, secret_hash)

    def let_go(self, count: int) -> None:
        """Release this many checks."""
        self._open.release(count)


@pytest.mark.parametrize("threads", by_form([2], [1, 2]))
async def test_a_flood_for_one_key_does_not_keep_the_others_waiting(database_url: str, threads: int) -> None:
    """Of two threads one is left to them. With one thread they wait for two wrong checks at most, not for all."""
    hasher = PausedHasher()
    async with process(database_url, lease=LONG, hasher=hasher, threads=threads) as made:
        await made.apply()
        await made.follow()
        flooded, right = await made.issue()
        others = [await made.issue() for _ in range(3)]
        hasher.paused = flooded.id
        wrong = [Token.mint(KeyType.WORKSPACE, flooded.id).reveal() for _ in range(MAX_QUEUE - 1)]
        try:
            flood = [asyncio.create_task(made.outcome(token)) for token in wrong]
            await until(lambda: hasher.started == 1)
            waiting = [asyncio.create_task(made.outcome(token)) for _, token in others]
            rightful = asyncio.create_task(made.outcome(right))
            # With one thread, the others have to wait as well.
            await until(lambda: made.verifier.waiting >= MAX_QUEUE + (len(others) if threads == 1 else 0))
            if threads == 1:
                hasher.let_go(2)
            async with asyncio.timeout(60):
                assert await asyncio.gather(*waiting) == ["granted"] * 3
            assert hasher.started <= 3
        finally:
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


async def test_a_flood_that_has_all_places_of_first_sights_lets_others_pass(database_url: str) -> None:
    """The flood is of one key, and keys take turns: the others wait for few of its checks."""
    hasher = PausedHasher()
    async with process(database_url, lease=LONG, hasher=hasher, at_once=4) as made:
        await made.apply()
        await made.follow()
        flooded, _ = await made.issue()
        others = [await made.issue() for _ in range(3)]
        hasher.paused = flooded.id
        try:
            wrong = [Token.mint(KeyType.WORKSPACE, flooded.id).reveal() for _ in range(100)]
            flood = [asyncio.create_task(made.outcome(token)) for token in wrong]
            await until(lambda: made.verifier.waiting == 4)
            waiting = [asyncio.create_task(made.outcome(token)) for _, token in others]
            await asyncio.sleep(0)
            hasher.let_go(8)
            async with asyncio.timeout(60):
                assert await asyncio.gather(*waiting) == ["granted"] * 3
        finally:
            hasher.let_go(1000)
        assert set(await asyncio.gather(*flood)) == {"UNKNOWN"}


@pytest.mark.parametrize("leased", by_form([True], [True, False]))
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


@pytest.mark.parametrize("at_once", [100, 1])
@pytest.mark.parametrize("leased", [True, False])
async def test_keys_that_are_read_together_end_each_by_its_own(
    database_url: str, sql: Sql, *, leased: bool, at_once: int
) -> None:
    """A broken hash, a wrong secret and an unknown key fail no other call, and each gives back its place."""
    async with process(database_url, lease=LONG, at_once=at_once) as made:
        await made.apply()
        if leased:
            await made.follow()
        right = [(await made.issue())[1] for _ in range(4)]
        (broken, broken_token), (of_another_type, _) = await made.issue(), await made.issue()
        await sql.execute("UPDATE key SET secret_hash = '$argon2id$broken' WHERE id = $1", broken.id)
        strangers = [
            Token.mint(KeyType.WORKSPACE, new_key_id()).reveal(),
            Token.mint(KeyType.WORKSPACE, of_another_type.id).reveal(),
            Token.mint(KeyType.USER, of_another_type.id).reveal(),
        ]
        lent = made.database.lent
        calls = (made.outcome(token) for token in (*right, broken_token, *strangers))
        found = await asyncio.gather(*calls, return_exceptions=True)
        error = found.pop(len(right))
        assert found == ["granted"] * len(right) + ["UNKNOWN"] * len(strangers)
        assert isinstance(error, Exception)
        assert broken_token not in repr(error)
        assert at_once == 1 or made.database.lent - lent < len(found), "they share statements"
        assert await made.outcome((await made.issue())[1]) == "granted"

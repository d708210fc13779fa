"""An empty memory is filled with the keys that are in use: those whose tokens another worker has verified."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.token import Token
from tests.support.fence import LONG
from tests.support.fleet import process, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def workers(database_url: str) -> AsyncIterator[tuple[Process, Process]]:
    """Two workers of one server. The second one knows nothing, and has room for three keys."""
    proofs = Proofs.of_one_process(100)
    async with (
        process(database_url, lease=LONG, proofs=proofs) as one,
        process(database_url, lease=LONG, proofs=proofs, capacity=3) as other,
    ):
        await one.apply()
        await one.follow()
        await other.follow()
        yield one, other


async def used(worker: Process) -> str:
    """Return the token of a new key that was used once."""
    _, token = await worker.issue()
    assert await worker.outcome(token) == "granted"
    return token


async def test_keys_in_use_are_known_before_their_first_call(workers: tuple[Process, Process]) -> None:
    """The call needs no argon2, and of the database only the workspace. Another token of the key is refused."""
    one, other = workers
    token = await used(one)
    await other.warm_up.load()
    assert len(other.key_cache) == 1
    lent = other.database.lent
    assert await other.outcome(token) == "granted"
    assert other.database.lent == lent + 1
    assert await other.outcome(token) == "granted"
    parsed = Token.parse(token)
    assert await other.outcome(Token.mint(parsed.type, parsed.key_id).reveal()) == "UNKNOWN"
    assert other.database.lent == lent + 1
    assert (one.hasher.checks, other.hasher.checks) == (1, 0)


async def test_only_keys_in_use_are_loaded(workers: tuple[Process, Process], sql: Sql) -> None:
    """Not a key that was never granted, that was last used long ago, or that has another secret by now."""
    one, other = workers
    for change in (
        "last_used_at = NULL",
        "last_used_at = now() - interval '25 hours'",
        "secret_hash = replace(secret_hash, 'm=16', 'm=17')",
    ):
        token = await used(one)
        await sql.execute(f"UPDATE key SET {change} WHERE id = $1", Token.parse(token).key_id)  # noqa: S608
    await other.warm_up.load()
    assert len(other.key_cache) == 0


async def test_a_key_whose_hash_is_outdated_waits_for_its_token(workers: tuple[Process, Process], sql: Sql) -> None:
    """Its hash is renewed with the token, which this worker would not see if it knew the key."""
    one, other = workers
    token = Token.parse(await used(one))
    older = SecretHasher(HashParameters(memory_kib=32)).hash(token.secret)
    await sql.execute("UPDATE key SET secret_hash = $1 WHERE id = $2", older, token.key_id)
    one.memory.drop_all()
    assert await one.outcome(token.reveal()) == "granted"
    await other.warm_up.load()
    assert len(other.key_cache) == 0
    assert await other.outcome(token.reveal()) == "granted"
    assert other.verifier.take_outdated() == {older: token}
    assert (one.hasher.checks, other.hasher.checks) == (2, 0)


async def test_a_revoked_key_is_not_granted(workers: tuple[Process, Process]) -> None:
    """Whether it was revoked before it was loaded or afterwards."""
    one, other = workers
    before, after = await one.issue(), await one.issue()
    for _, token in (before, after):
        await one.outcome(token)
    await one.revoke(before[0])
    await other.warm_up.load()
    assert len(other.key_cache) == 2
    await one.revoke(after[0])
    for _, token in (before, after):
        assert await other.outcome(token) == "REVOKED"
    assert other.hasher.checks == 0


async def test_no_key_is_dropped_for_another_that_nobody_asks_about(workers: tuple[Process, Process]) -> None:
    """There is room for three. A key that is known already is not read again."""
    one, other = workers
    tokens = [await used(one) for _ in range(5)]
    assert await other.outcome(tokens[0]) == "granted"
    await other.warm_up.load()
    assert len(other.key_cache) == 3
    lent = other.database.lent
    assert await other.outcome(tokens[0]) == "granted"
    await other.warm_up.load()
    assert other.database.lent == lent


async def test_keys_are_loaded_again_after_memory_was_dropped(workers: tuple[Process, Process]) -> None:
    """As at a start, and as often as that happens. It goes on when something fails."""
    one, other = workers
    await used(one)
    running = asyncio.create_task(other.warm_up.run())
    try:
        for _ in range(2):
            await until(lambda: len(other.key_cache) == 1)
            other.memory.drop_all()
            assert len(other.key_cache) == 0
        await until(lambda: len(other.key_cache) == 1)
    finally:
        running.cancel()


async def test_nothing_is_loaded_without_a_lease(workers: tuple[Process, Process]) -> None:
    """Memory may not be used then, and would be dropped."""
    one, other = workers
    await used(one)
    other.lease.end()
    lent = other.database.lent
    await other.warm_up.load()
    assert (len(other.key_cache), other.database.lent) == (0, lent)

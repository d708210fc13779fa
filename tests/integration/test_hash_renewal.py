"""Hashes with outdated parameters are renewed in the background, many keys at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app.authorization.hash_renewal import HashRenewal
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.token import Token
from skilder_keys.storage import credentials
from skilder_keys.storage.credentials import RenewedHash
from tests.support.fence import LONG, epoch, warm
from tests.support.fleet import Process, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from skilder_keys.domain.keys import Key

    Sql = asyncpg.Connection[Any]

KEYS = 40


@pytest.fixture
async def made(database_url: str) -> AsyncIterator[Process]:
    """A process with a workspace and a lease."""
    async with process(database_url, lease=LONG) as process_:
        await process_.apply()
        await process_.follow()
        yield process_


async def outdated_keys(of: Process, sql: Sql) -> list[tuple[Key, str]]:
    """Issue keys, and give them hashes of other parameters."""
    older = SecretHasher(HashParameters(memory_kib=32))
    issued = [await of.issue() for _ in range(KEYS)]
    for key, token in issued:
        await sql.execute(
            "UPDATE key SET secret_hash = $2 WHERE id = $1", key.id, older.hash(Token.parse(token).secret)
        )
    return issued


async def hashes(sql: Sql, memory_kib: int) -> int:
    """Return the number of hashes with this memory."""
    return int(await sql.fetchval("SELECT count(*) FROM key WHERE secret_hash LIKE $1", f"%m={memory_kib},%"))


async def test_many_hashes_are_renewed_by_one_statement_that_changes_nothing_else(made: Process, sql: Sql) -> None:
    """Memory keeps the keys, no other process hears of it, and the tokens need no argon2 for their new hashes."""
    issued = await outdated_keys(made, sql)
    for _, token in issued:
        assert await made.outcome(token) == "granted"
        await warm(made, token)
    before, lent, checks = await epoch(sql), made.database.lent, made.hasher.checks
    await HashRenewal(made.database, made.verifier, made.log.logger).renew()
    assert await hashes(sql, 16) == KEYS
    assert await epoch(sql) == before
    assert made.database.lent == lent + 1
    hits = made.memory.hits
    for _, token in issued:
        assert await made.outcome(token) == "granted"
    assert made.memory.hits == hits + KEYS
    made.memory.drop_all()
    for _, token in issued:
        assert await made.outcome(token) == "granted"
    assert made.hasher.checks == checks
    assert made.verifier.take_outdated() == {}


async def test_a_first_sight_does_not_wait_for_its_new_hash(made: Process, sql: Sql) -> None:
    """Only the renewal writes it; without one the old hash serves on, whatever happens to the tokens in between."""
    issued = await outdated_keys(made, sql)
    for _, token in issued:
        assert await made.outcome(token) == "granted"
    assert await hashes(sql, 32) == KEYS
    made.verifier.take_outdated()
    made.memory.drop_all()
    for _, token in issued:
        assert await made.outcome(token) == "granted"


async def test_a_key_that_was_revoked_replaced_or_locked_is_left_alone(made: Process, sql: Sql) -> None:
    """A renewal waits for nobody, and gives nothing back that was taken away."""
    (revoked, _), (replaced, _), (locked, _), (good, _) = [await made.issue() for _ in range(4)]
    old = {row["id"]: row["secret_hash"] for row in await sql.fetch("SELECT id, secret_hash FROM key")}
    await made.revoke(revoked)
    await sql.execute("UPDATE key SET secret_hash = '$argon2id$other' WHERE id = $1", replaced.id)
    renewed = [RenewedHash(key_id, each, f"$argon2id$new-{key_id}") for key_id, each in old.items()]
    async with made.database.connection() as connection, sql.transaction():
        await sql.execute("SELECT FROM key WHERE id = $1 FOR NO KEY UPDATE", locked.id)
        assert await credentials.renew_hashes(connection, renewed) == {good.id}
    found = {row["id"]: row["secret_hash"] for row in await sql.fetch("SELECT id, secret_hash FROM key")}
    assert found == old | {replaced.id: "$argon2id$other", good.id: f"$argon2id$new-{good.id}"}

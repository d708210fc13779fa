"""Hashes with outdated parameters are renewed in the background, many keys at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.hash_renewal import HashRenewal
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.token import Token
from skilder_keys.storage import credentials
from skilder_keys.storage.credentials import RenewedHash
from tests.support.fence import epoch, warm

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.domain.keys import Key
    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

KEYS = 40


async def outdated_keys(of: Process, sql: Sql) -> list[tuple[Key, str]]:
    """Issue keys, of which each other one expires, and give them hashes of other parameters."""
    older = SecretHasher(HashParameters(memory_kib=32))
    issued = [await of.issue(lifetime=timedelta(days=1) if number % 2 else None) for number in range(KEYS)]
    for key, token in issued:
        await sql.execute(
            "UPDATE key SET secret_hash = $2 WHERE id = $1", key.id, older.hash(Token.parse(token).secret)
        )
    return issued


async def hashes(sql: Sql, memory_kib: int) -> int:
    """Return the number of hashes with this memory."""
    hash_of = "coalesce(secret_hash, guarded_hash)"
    return int(await sql.fetchval(f"SELECT count(*) FROM key WHERE {hash_of} LIKE $1", f"%m={memory_kib},%"))  # noqa: S608


async def test_many_hashes_are_renewed_by_one_statement_that_changes_nothing_else(one: Process, sql: Sql) -> None:
    """Memory keeps the keys, no other process hears of it, and the tokens need no argon2 for their new hashes."""
    issued = await outdated_keys(one, sql)
    for _, token in issued:
        assert await one.outcome(token) == "granted"
        await warm(one, token)
    before, lent, checks = await epoch(sql), one.database.lent, one.hasher.checks
    await HashRenewal(one.database, one.verifier, one.log.logger).renew()
    assert await hashes(sql, 16) == KEYS
    assert await epoch(sql) == before
    assert one.database.lent == lent + 1
    hits = one.memory.hits
    for _, token in issued:
        assert await one.outcome(token) == "granted"
    assert one.memory.hits == hits + KEYS
    one.memory.drop_all()
    for _, token in issued:
        assert await one.outcome(token) == "granted"
    assert one.hasher.checks == checks
    assert one.verifier.take_outdated() == {}


async def test_a_first_sight_does_not_wait_for_its_new_hash(one: Process, sql: Sql) -> None:
    """Only the renewal writes it; without one the old hash serves on, whatever happens to the tokens in between."""
    issued = await outdated_keys(one, sql)
    for _, token in issued:
        assert await one.outcome(token) == "granted"
    assert await hashes(sql, 32) == KEYS
    one.verifier.take_outdated()
    one.memory.drop_all()
    for _, token in issued:
        assert await one.outcome(token) == "granted"


async def test_a_key_that_was_revoked_replaced_or_locked_is_left_alone(one: Process, sql: Sql) -> None:
    """A renewal waits for nobody, and gives nothing back that was taken away."""
    (revoked, _), (replaced, _), (locked, _), (good, _) = [await one.issue() for _ in range(4)]
    old = {row["id"]: row["secret_hash"] for row in await sql.fetch("SELECT id, secret_hash FROM key")}
    await one.revoke(revoked)
    await sql.execute("UPDATE key SET secret_hash = '$argon2id$other' WHERE id = $1", replaced.id)
    renewed = [RenewedHash(key_id, each, f"$argon2id$new-{key_id}") for key_id, each in old.items()]
    async with one.database.transaction() as connection, sql.transaction():
        await sql.execute("SELECT FROM key WHERE id = $1 FOR NO KEY UPDATE", locked.id)
        assert await credentials.renew_hashes(connection, renewed) == {good.id}
    found = {row["id"]: row["secret_hash"] for row in await sql.fetch("SELECT id, secret_hash FROM key")}
    assert found == old | {replaced.id: "$argon2id$other", good.id: f"$argon2id$new-{good.id}"}

"""The last uses of keys: column `key.last_used_at`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.ids import KeyId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skilder_keys.storage.database import Connection


async def claim_first_uses(
    connection: Connection, secret_hashes: Iterable[tuple[KeyId, str]]
) -> dict[tuple[KeyId, str], bool]:
    """Record the first use of keys; return those that are still active with the secret that was verified.

    A retry of IssueKey can renew the secret of a key that was never used. Both lock the row, so one of them wins:
    a key that was used is never renewed, and a secret that was replaced is never used.

    Args:
        connection: The connection. Outside of a transaction this is one round trip.
        secret_hashes: The keys, each with the hash with which its secret was verified.

    Returns:
        True for each of `secret_hashes` that is still valid; the others are left out.
    """
    # In order of id, so that two processes that claim the same keys do not deadlock.
    ordered = sorted(secret_hashes, key=lambda each: each[0].int)
    rows = await connection.fetch(
        "SELECT key_id, verified_hash FROM claim_first_uses($1, $2)",  # migration 19 has its statement
        [key_id for key_id, _ in ordered],
        [secret_hash for _, secret_hash in ordered],
    )
    return {(KeyId(row["key_id"]), row["verified_hash"]): True for row in rows}


async def note_uses(connection: Connection, ages: Mapping[KeyId, float], precision: float) -> dict[KeyId, float | None]:
    """Record the last use of keys.

    Times are those of the database's clock. A recorded time that is in the future is corrected. A row is not updated if
    another transaction has locked it, so this never waits, or if its last use is at most `precision` seconds before the
    given one.

    Call it in its own transaction. The commit waits neither for the disk nor for a standby, because a revocation of one
    of the keys has to wait for it, and the loss of a last use in a crash does no harm.

    Args:
        connection: Inside that transaction.
        ages: By key, how many seconds ago it was last used.
        precision: Seconds.

    Returns:
        By key, how many seconds ago the recorded last use was; None if none is recorded. Unknown keys are left out.
    """
    # A plan that is made while there are few keys reads all of them, and the connection keeps that plan.
    await connection.execute("SET LOCAL synchronous_commit = off; SET LOCAL enable_seqscan = off")
    key_ids = list(ages)
    await connection.execute(
        """
        WITH due AS MATERIALIZED (
            SELECT key.id, used.at
            FROM (SELECT id, now() - make_interval(secs => age) AS at
                  FROM unnest($1::uuid[], $2::double precision[]) AS noted (id, age)) AS used
            JOIN key ON key.id = used.id
            WHERE key.last_used_at IS NULL
               OR key.last_used_at < used.at - make_interval(secs => $3)
               OR key.last_used_at > clock_timestamp()
            FOR NO KEY UPDATE OF key SKIP LOCKED
        )
        UPDATE key SET last_used_at = due.at FROM due WHERE key.id = due.id
        """,
        key_ids,
        [max(0.0, age) for age in ages.values()],
        precision,
    )
    rows = await connection.fetch(
        """
        SELECT id, extract(epoch FROM clock_timestamp() - last_used_at)::double precision AS age
        FROM key WHERE id = ANY($1::uuid[])
        """,
        key_ids,
    )
    return {KeyId(row["id"]): row["age"] for row in rows}

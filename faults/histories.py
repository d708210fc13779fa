"""Diverged histories, on real processes of the app and a real Postgres: `python -m faults.histories MUTATION`.

The exit code is 1 if a key is granted after its revocation has returned. The mutation is one of `mutant`, or `none`.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg

from faults.mutant import MUTATIONS
from skilder_keys.storage.migrations import migrate
from tests.support.fence import CHANGE, revoke_by_hand, warm
from tests.support.fleet import process, until
from tests.support.histories import copy_folder, until_made
from tests.support.stock import StockServer, stock_server

LEASE = 6.0
"""Seconds; longer than it takes to restore the database."""


async def restored(server: StockServer) -> list[str]:
    """Revoke a key that a hanging process knows, after a restore to a database that does not know the process."""
    async with process(server.url(), lease=LEASE) as writer, process(server.url(), lease=LEASE) as reader:
        await writer.apply()
        key, token = await writer.issue()
        await copy_folder(server, "data", "backup")
        await reader.follow()
        await warm(reader, token)
        await reader.freeze()
        await copy_folder(server, "backup", "data")
        await until_made(lambda: writer.revoke(key))
        return [await reader.outcome(token)]


async def rewritten(server: StockServer) -> list[str]:
    """Lose a change, and revoke a key in the same epoch, while the connections go on, as behind a pooler."""
    async with process(server.url()) as writer, process(server.url()) as reader:
        await writer.apply()
        key, token = await writer.issue()
        await reader.follow()
        sql = await asyncpg.connect(server.url())
        try:
            before = await sql.fetchrow("SELECT epoch, tag FROM fence")
            assert before is not None
            await sql.execute(CHANGE)
            await until(lambda: reader.lease.epoch == before["epoch"] + 1)
            await warm(reader, token)
            async with sql.transaction():
                await sql.execute("UPDATE fence SET epoch = $1, tag = $2", *before)
                await sql.execute("DELETE FROM change WHERE epoch > $1", before["epoch"])
                await sql.execute("UPDATE reader SET epoch = $1", before["epoch"])
                await revoke_by_hand(sql, key)
        finally:
            await sql.close()
        await until_made(lambda: writer.revoke(key))
        return [await reader.outcome(token)]


async def outcomes() -> list[str]:
    """Return the decisions about keys whose revocation had returned."""
    with stock_server() as server:
        await migrate(server.url())
        return await rewritten(server) + await restored(server)


def main(mutation: str) -> int:
    """Run the histories with a mutation, and return the exit code."""
    if mutation != "none":
        MUTATIONS[mutation]()
    found = asyncio.run(outcomes())
    print(*found)  # noqa: T201 - for people, and for the test
    return int("granted" in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

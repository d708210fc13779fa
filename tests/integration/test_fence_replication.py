"""Changes that arrive by logical replication pass the fence of the database where they arrive."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.ids import HatId
from skilder_keys.storage.migrations import migrate
from skilder_keys.storage.triggers import NEEDED
from tests.support.fence import epoch, until_true, warm
from tests.support.fleet import Process, process, until
from tests.support.sql import connected
from tests.support.stock import StockServer, cluster_folder, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    Sql = asyncpg.Connection[Any]

_TABLES = NEEDED.keys() - {"audit_event", "pending_audit_event", "pending_change"}


@asynccontextmanager
async def subscribed(source: Sql, target: Sql, server: StockServer) -> AsyncIterator[None]:
    """Replicate what decides about keys from one database of a server to another one."""
    await source.execute(f"CREATE PUBLICATION changes FOR TABLE {', '.join(sorted(_TABLES))}")
    # Within one server, a subscription that makes its slot itself would wait for its own transaction.
    await source.execute("SELECT pg_create_logical_replication_slot('target', 'pgoutput')")
    place = f"host={server.folder} port={server.port} dbname=source user=postgres"
    await target.execute(
        f"CREATE SUBSCRIPTION target CONNECTION '{place}' PUBLICATION changes WITH (create_slot = false)"
    )
    try:
        await until_true(target, "SELECT NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')")
        yield
    finally:
        await target.execute("DROP SUBSCRIPTION target")


def _has_reached(reader: Process, changes: int) -> bool:
    return reader.lease.epoch >= changes


async def test_replicated_changes_reach_memory() -> None:
    """Also where the versions of the two databases differ, as after a change that was made where they arrive."""
    with cluster_folder() as folder:
        server = StockServer.create(folder, wal_level="logical")
        with running(server):
            urls = [server.url(name) for name in ("source", "target")]
            async with connected(server.url()) as sql:
                for name, url in zip(("source", "target"), urls, strict=True):
                    await sql.execute(f"CREATE DATABASE {name}")
                    await migrate(url)
            async with (
                process(urls[0]) as writer,
                process(urls[1]) as reader,
                connected(urls[0]) as source,
                connected(urls[1]) as target,
            ):
                await writer.apply()
                _, token = await writer.issue(hat_ids=(HatId("everyone"),))
                async with subscribed(source, target, server):
                    await reader.follow()
                    await target.execute("INSERT INTO tool VALUES ('acme', 'local', 'local', 'server', false)")
                    for disabled in (True, False, True):
                        await warm(reader, token)
                        await source.execute("UPDATE tool SET disabled = $1 WHERE id = 'web.search'", disabled)
                        await until_true(target, "SELECT disabled = $1 FROM tool WHERE id = 'web.search'", disabled)
                        await until(partial(_has_reached, reader, await epoch(target)))
                        outcome = await reader.outcome(token, "web.search")
                        assert outcome == ("TOOL_NOT_ALLOWED" if disabled else "granted")

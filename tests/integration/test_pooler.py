"""Behind PgBouncer in the distribution's version: clients share sessions, so nothing may be left in one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
import pytest

from skilder.keys.v1.catalog_service_pb2 import DeleteWorkspaceRequest
from skilder.keys.v1.key_service_pb2 import ListKeysRequest
from skilder_keys.storage.migrations import migrate, migrations
from tests.support.pooler import Pooler, pooler
from tests.support.postgres import new_database
from tests.support.service import serving
from tests.support.stock import StockServer, stock_server
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def stock() -> Iterator[StockServer]:
    """A server that the tests of this module share."""
    with stock_server() as server:
        yield server


@pytest.fixture(scope="module", params=["transaction", "session"])
def pool(request: pytest.FixtureRequest, stock: StockServer) -> Iterator[Pooler]:
    """A PgBouncer in front of it."""
    mode: Literal["transaction", "session"] = request.param
    with pooler(stock, mode) as made:
        yield made


@pytest.fixture
async def empty(stock: StockServer) -> AsyncIterator[str]:
    """The name of an empty database."""
    async with new_database(stock.url()) as url:
        yield url.partition("?")[0].rpartition("/")[2]


async def left(stock: StockServer, database: str) -> dict[str, Any]:
    """Return the locks that sessions of a database still hold, as the server sees them."""
    sql = await asyncpg.connect(stock.url(database))
    try:
        row = await sql.fetchrow(
            """
            SELECT count(*) FILTER (WHERE locktype = 'advisory') AS advisory,
                   count(*) FILTER (WHERE pg_stat_activity.state <> 'idle') AS busy
            FROM pg_stat_activity LEFT JOIN pg_locks USING (pid)
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
            """
        )
        assert row is not None
        return dict(row)
    finally:
        await sql.close()


async def test_migrate_leaves_no_lock_in_a_session(pool: Pooler, stock: StockServer, empty: str) -> None:
    """So the next `migrate`, which may get another session, does not wait for ever; nor do eight at once."""
    done = await asyncio.gather(*(migrate(pool.url(empty)) for _ in range(8)))
    assert sorted(each.number for run in done for each in run) == [each.number for each in migrations()]
    assert await left(stock, empty) == {"advisory": 0, "busy": 0}
    assert await migrate(stock.url(empty)) == ()


async def test_two_services_share_a_pooler(transport: str, pool: Pooler, empty: str, tmp_path: Path) -> None:
    """Every method works, and so does the fence: each service drops a key that the other revoked."""
    await migrate(pool.url(empty))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    url = pool.url(empty)
    async with (
        serving(url, tmp_path / "one", transport=transport, pool_size=3) as one,
        serving(url, tmp_path / "other", transport=transport, pool_size=3) as other,
    ):
        await one.operator.apply(small_workspace())
        issued = await asyncio.gather(*(one.operator.issue(request_id=f"request-{n}") for n in range(12)))
        for _ in range(3):
            calls = (each.service.authorize(key.token) for key in issued for each in (one, other))
            assert all(granted.HasField("granted") for granted in await asyncio.gather(*calls))
        listed = await other.operator.keys.ListKeys(ListKeysRequest(workspace_id="acme"))
        assert len(listed.keys) == len(issued)
        for number, key in enumerate(issued):
            by, asked = (one, other) if number % 2 else (other, one)
            await by.operator.revoke(key_id=key.key.id)
            assert await asked.service.denial(key.token) == "REVOKED"
        await other.operator.apply(small_workspace())
        await one.operator.catalog.DeleteWorkspace(DeleteWorkspaceRequest(workspace_id="acme"))

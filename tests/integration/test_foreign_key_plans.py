"""Changes check foreign keys by their whole keys, whatever the connection planned when tables were small."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    MEMBER_ROLE_VIEWER,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)
from skilder_keys.domain.difference import difference
from skilder_keys.domain.ids import HatId, WorkspaceId
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.offload import Offload
from skilder_keys.rpc import convert_workspaces
from skilder_keys.storage import catalog_changes, keys
from tests.support.lengths import by_form
from tests.support.postgres import new_database
from tests.support.rows import without_events
from tests.support.sql import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.stock_too(in_turn=True)

_PARTS = by_form(200, 600)  # of each kind: fewer than Postgres needs to tell all indexes apart by their costs


def _workspace(id_: str, size: int) -> Workspace:
    """Return a workspace with as many parts of each kind. Each names one of the next kind."""
    numbers = range(size)
    return Workspace(
        id=id_,
        name="W",
        members=[Member(user_id=f"u{n}", role=MEMBER_ROLE_VIEWER, team_ids=[f"t{n}"]) for n in numbers],
        teams=[Team(id=f"t{n}", name="T", parent_id=f"t{n - 1}" if n % 6 else "") for n in numbers],
        hats=[
            Hat(id=f"h{n}", name="H", audience=HAT_AUDIENCE_TEAMS, team_ids=[f"t{n}"], skill_ids=[f"s{n}"])
            for n in numbers
        ],
        skills=[Skill(id=f"s{n}", name="S", tool_ids=[f"o{n}"]) for n in numbers],
        tools=[Tool(id=f"o{n}", name=f"n{n}", mcp_server="server") for n in numbers],
    )


async def _replace(connection: asyncpg.Connection[Any], before: Workspace, after: Workspace) -> None:
    offload = Offload()
    current, desired = (checked(convert_workspaces.workspace(each)) for each in (before, after))
    await catalog_changes.replace(connection, desired, difference(current, desired), offload)
    offload.close()


@pytest.fixture
async def own_url(postgres_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a database for one test."""
    async with new_database(postgres_url, template) as url:
        yield url


@pytest.fixture(params=["tables were empty", "tables had a row"])
async def planned(own_url: str, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection that has made and emptied a workspace twelve times as small, so that it has all plans."""
    connection = await asyncpg.connect(own_url)
    await connection.execute(
        "INSERT INTO workspace (id, name, version) VALUES ('few', 'F', 1), ('many', 'M', 1), ('one', 'O', 1)"
    )
    if request.param == "tables had a row":
        async with connection.transaction():
            await _replace(connection, _workspace("one", 0), _workspace("one", 1))
    await connection.execute("VACUUM ANALYZE")
    for before, after in ((0, 12), (12, 0)):
        async with connection.transaction():
            await _replace(connection, _workspace("few", before), _workspace("few", after))
    yield connection
    await connection.close()


async def _rows_read(connection: asyncpg.Connection[Any]) -> dict[str, int]:
    """Return by table how many rows this connection has read lately."""
    found = await connection.fetch(
        "SELECT relname, coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0) FROM pg_stat_xact_user_tables"
    )
    return {str(name): int(rows) for name, rows in found}


@asynccontextmanager
async def _reading(connection: asyncpg.Connection[Any], most: int) -> AsyncIterator[None]:
    """Make a transaction, and assert that it reads at most so many rows of each table."""
    async with connection.transaction():
        before = await _rows_read(connection)
        yield
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        after = await _rows_read(connection)
        assert {name: rows - before[name] for name, rows in after.items() if rows - before[name] > most} == {}


async def test_a_row_costs_as_much_in_a_large_change(planned: asyncpg.Connection[Any]) -> None:
    """Parts are added, removed and cleared: each table is read a few times for each row, not once for each pair."""
    none, all_ = _workspace("many", 0), _workspace("many", _PARTS)
    async with _reading(planned, 20 * _PARTS):
        await _replace(planned, none, all_)
    async with _reading(planned, 20 * _PARTS):
        await _replace(planned, all_, none)
        assert await planned.fetchval("SELECT count(*) FROM skill_tool WHERE workspace_id = 'many'") == 0
    async with planned.transaction():
        await _replace(planned, none, all_)
    async with _reading(planned, 20 * _PARTS):
        await catalog_changes.clear(planned, WorkspaceId("many"))
        assert await planned.fetchval("SELECT count(*) FROM member WHERE workspace_id = 'many'") == 0


async def test_a_key_with_hats_is_issued_without_reading_the_others(
    planned: asyncpg.Connection[Any], own_url: str
) -> None:
    """Also by a connection that has issued keys when there were few. Another one adds the many, without events."""
    async with planned.transaction():
        await _replace(planned, _workspace("many", 0), _workspace("many", 12))
    hats = tuple(HatId(f"h{n}") for n in range(12))

    async def issue() -> None:
        spec = KeySpec(KeyType.WORKSPACE, WorkspaceId("many"), None, None, "key", hats, ())
        creator = Principal(PrincipalKind.CALLER, "test")
        await keys.insert(planned, spec, secret_hash="$argon2id$", created_by=creator, request=None)

    for _ in range(2):
        await issue()
    async with connected(own_url) as other, without_events(other):
        await other.execute(
            """
            INSERT INTO key (id, type, workspace_id, description, limited_to_hats, secret_hash, created_by_kind,
                             created_by_id)
            SELECT gen_random_uuid(), 'workspace', 'many', 'key', true, '$argon2id$', 'caller', 'test'
            FROM generate_series(1, 5000)
            """
        )
    async with _reading(planned, 20 * len(hats)):
        await issue()


async def test_a_change_of_many_keys_in_sql_reads_each_a_few_times(planned: asyncpg.Connection[Any]) -> None:
    """Also in a session that has changed keys when there were few. The triggers of the fence keep their plans."""
    add = """
        INSERT INTO key (id, type, workspace_id, description, limited_to_hats, secret_hash, created_by_kind,
                         created_by_id)
        SELECT gen_random_uuid(), 'workspace', 'many', 'key', true, '$argon2id$', 'caller', 'test'
        FROM generate_series(1, $1)
    """
    await planned.execute("SET session_replication_role = replica")  # foreign keys are not checked
    await planned.execute(add, 20)
    await planned.execute("ANALYZE key")
    for n in range(2):
        await planned.execute("UPDATE key SET description = $1", f"few {n}")
        await planned.execute("INSERT INTO key_hat SELECT workspace_id, id, $1 FROM key", f"few {n}")
    await planned.execute(add, 1000)
    async with _reading(planned, 20 * 1000):
        await planned.execute("UPDATE key SET description = 'many'")
        await planned.execute("INSERT INTO key_hat SELECT workspace_id, id, 'many' FROM key")

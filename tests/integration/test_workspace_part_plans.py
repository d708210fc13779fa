"""A change of single parts reads these parts by an index, however many others there are, in any plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.difference import KINDS, Part
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.offload import Offload
from skilder_keys.storage import workspace_parts
from skilder_keys.storage.plans import prefer_indexes
from tests.support.many_keys import STATISTICS
from tests.support.plans import Mode, plans
from tests.support.postgres import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")
TABLES = ("member", "team", "team_member", "hat", "hat_team", "hat_skill", "skill", "skill_tool", "tool")
_ROWS = """
INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1);
INSERT INTO team (workspace_id, id, name) SELECT 'acme', 't' || n, 'T' FROM generate_series(1, 1000) AS n;
INSERT INTO member (workspace_id, user_id, role) SELECT 'acme', 'u' || n, 'viewer' FROM generate_series(1, 5000) AS n;
INSERT INTO team_member (workspace_id, team_id, user_id)
SELECT 'acme', 't' || (1 + (n + m) % 1000), 'u' || n FROM generate_series(1, 5000) AS n, generate_series(1, 2) AS m;
INSERT INTO tool (workspace_id, id, name, mcp_server, disabled)
SELECT 'acme', 'o' || n, 'name' || n, 'server', false FROM generate_series(1, 10000) AS n;
INSERT INTO skill (workspace_id, id, name, description)
SELECT 'acme', 's' || n, 'S', '' FROM generate_series(1, 2000) AS n;
INSERT INTO skill_tool (workspace_id, skill_id, tool_id)
SELECT 'acme', 's' || n, 'o' || (1 + (n * 7 + m) % 10000)
FROM generate_series(1, 2000) AS n, generate_series(1, 5) AS m;
INSERT INTO hat (workspace_id, id, name, description, instructions, audience)
SELECT 'acme', 'h' || n, 'H', '', '', 'teams' FROM generate_series(1, 1000) AS n;
INSERT INTO hat_team (workspace_id, hat_id, team_id)
SELECT 'acme', 'h' || n, 't' || n FROM generate_series(1, 1000) AS n;
INSERT INTO hat_skill (workspace_id, hat_id, skill_id)
SELECT 'acme', 'h' || n, 's' || (1 + (n * 3 + m) % 2000) FROM generate_series(1, 1000) AS n, generate_series(1, 4) AS m;
"""
_IDS: dict[Part, list[str]] = {
    Part.MEMBER: ["u77", "u78"],
    Part.TEAM: ["t77", "t78"],
    Part.HAT: ["h77", "h78"],
    Part.SKILL: ["s77", "s78"],
    Part.TOOL: ["o77", "o78"],
}
assert set(_IDS) == set(KINDS)


async def _load(sql: Connection) -> None:
    offload = Offload()
    await workspace_parts.load(sql, ACME, "Acme", _IDS, offload)
    offload.close()


async def _load_around(sql: Connection) -> None:
    offload = Offload()
    await prefer_indexes(sql)
    parts = await workspace_parts.load(sql, ACME, "Acme", _IDS, offload)
    offload.close()
    await workspace_parts.find_around(sql, ACME, parts, parts)


async def _find(sql: Connection) -> None:
    await prefer_indexes(sql)
    await workspace_parts.find_existing(sql, ACME, _IDS)
    await workspace_parts.find_tool_names(sql, ACME, [("server", "name77"), ("server", "nowhere")])
    await workspace_parts.find_namings(sql, ACME, _IDS, _IDS)


RUNS: dict[str, Callable[[Connection], Awaitable[None]]] = {
    "load": _load,
    "around": _load_around,
    "find": _find,
}


@pytest.fixture(scope="module", params=[*STATISTICS, "planned when empty"])
async def filled(
    postgres_url: str, template: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with a large workspace, which no test changes; or one right after the migrations."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            if request.param != "planned when empty":
                await connection.execute(_ROWS)
            if request.param == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", RUNS)
async def test_parts_are_found_by_their_ids(filled: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """No table is read from end to end, and no index for more than the wanted rows."""
    async with filled.transaction():
        found = await plans(filled, RUNS[name], mode, analyze=True)
    assert found
    for plan in found:
        for table in TABLES:
            assert all(scan.startswith(("Index", "Bitmap Heap Scan")) for scan in plan.scans(table)), plan
            assert plan.rows_read(table) <= 50, plan


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_all_ids_are_read_from_an_index(filled: asyncpg.Connection[Any], mode: Mode) -> None:
    """By the workspace, so that those of others are not."""

    async def find(sql: Connection) -> None:
        await prefer_indexes(sql)
        for part in KINDS:
            await workspace_parts.find_ids(sql, ACME, part)

    async with filled.transaction():
        found = await plans(filled, find, mode)
    assert len(found) == len(KINDS)
    for plan in found:
        scans = [scan for table in TABLES for scan in plan.scans(table)]
        assert [scan.split()[0] in {"Index", "Bitmap"} for scan in scans] == [True], plan

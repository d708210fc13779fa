"""The service that tests lend each other: no test finds what another one left."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.support.calls import delete_workspace, list_keys
from tests.support.kept_rows import is_counted
from tests.support.shared_service import SharedService, apply_small_workspace
from tests.support.sql import connected
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.servers import Servers
    from tests.support.service import Service

# Times, ports of clients, hashes with their salts, and transactions.
_OTHER_EACH_TIME = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.+]+|(?<=127\.0\.0\.1:)\d+|(?<=\\x)[0-9a-f]{32,}|(?<=,)\d+(?=\)$)"
)
# What a running service has, and its changes so far.
_OF_THE_SERVICE = ("fence", "schema_migration", "signing_key", "reader", "change", "pending_change")


async def use_keys(service: Service) -> None:
    """Issue keys of each kind, change, rotate, revoke and use them."""
    limited = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]}, labels={"team": "blue"})
    rotated = await service.operator.rotate((await service.operator.issue()).key.id)
    await service.service.authorize(rotated.token)
    await service.operator.revoke(key_id=limited.key.id, reason="It is not needed.")


async def change_parts(service: Service) -> None:
    """Give the workspace another tool."""
    workspace = small_workspace()
    workspace.tools.add(id="web.fetch", name="web_fetch", mcp_server="web")
    await service.operator.apply(workspace)


async def change_and_change_back(service: Service) -> None:
    """Leave the same parts, at a later version."""
    await change_parts(service)
    await service.operator.apply(small_workspace())


async def set_policy(service: Service) -> None:
    """Give the workspace a key policy."""
    workspace = small_workspace()
    workspace.key_policy.max_lifetime.FromTimedelta(timedelta(days=30))
    await service.operator.apply(workspace)


async def add_workspace(service: Service) -> None:
    """Apply another workspace, and issue a key of it."""
    await service.operator.apply(small_workspace("other"))
    await service.operator.issue(workspace_id="other")


async def delete(service: Service) -> None:
    """Delete the workspace, with a key."""
    await service.operator.issue()
    await delete_workspace(service.operator, "acme")


def by_hand(statement: str) -> Callable[[Service], Awaitable[None]]:
    """Return what executes a statement, by hand."""

    async def change(service: Service) -> None:
        async with connected(service.database_url) as sql:
            await sql.execute(statement)

    return change


CHANGES = {
    "keys": use_keys,
    "parts": change_parts,
    "parts and back": change_and_change_back,
    "policy": set_policy,
    "another workspace": add_workspace,
    "deletion": delete,
    "a part by hand": by_hand("UPDATE tool SET disabled = true WHERE id = 'web.search'"),
    "a link by hand": by_hand("DELETE FROM skill_tool WHERE skill_id = 'code'"),
    "a name by hand": by_hand("UPDATE workspace SET name = 'Other'"),
    "totals by hand": by_hand("UPDATE workspace_content SET tools = 1"),
    "a schema by hand": by_hand("ALTER TABLE key ADD COLUMN more text"),
}


NOT_OF_THE_CATALOG = {"keys", "another workspace", "totals by hand"}
"""After these, the workspace is the one of before."""


async def last_applied(service: Service) -> Any:
    """Return when the workspace was applied."""
    async with connected(service.database_url) as sql:
        return await sql.fetchval("SELECT updated_at FROM workspace WHERE id = 'acme'")


async def rows(service: Service) -> set[str]:
    """Return every row of a test, with its table, without what is another each time and what the service counts."""
    async with connected(service.database_url) as sql:
        tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {
            f"{name}: {_OTHER_EACH_TIME.sub('', row['text'])}"
            for (name,) in tables
            if name not in _OF_THE_SERVICE and not is_counted(name)
            for row in await sql.fetch(f"SELECT t::text AS text FROM {name} AS t")  # noqa: S608 - a table's own name
        }


async def events(service: Service) -> list[int]:
    """Return the numbers of all events."""
    async with connected(service.database_url) as sql:
        return [row["id"] for row in await sql.fetch("SELECT id FROM audit_event ORDER BY id")]


@ONLY_GRPCIO
async def test_no_test_finds_what_another_one_left(
    transport: str, postgres_url: str, shared_servers: Servers, tmp_path: Path
) -> None:
    """With the workspace or without: the rows are those of a new service, and no key is remembered."""
    shared = SharedService(transport, (await shared_servers.on(postgres_url)).databases, lambda: tmp_path)
    try:
        async with shared.lent(apply_small_workspace) as (service, _, _):
            first = await rows(service)
            await service.operator.issue()
            numbers = await events(service)
        assert any(row.startswith("tool: (acme,web.search") for row in first)
        for name, change in CHANGES.items():
            async with shared.lent(apply_small_workspace) as (service, _, _):
                token = (await service.operator.issue()).token
                assert await service.service.authorize(token)
                applied = await last_applied(service)
                await change(service)
            async with shared.lent(apply_small_workspace) as (service, _, _):
                assert await rows(service) == first, name
                assert (await last_applied(service) == applied) is (name in NOT_OF_THE_CATALOG), name
                assert await service.service.denial(token) == "UNKNOWN", name
                assert service.log.calls("CatalogService/ApplyWorkspace") == [], name
                await service.operator.issue()
                assert await events(service) == numbers, name
        async with shared.lent() as (service, _, _):
            assert await rows(service) == set()
    finally:
        await shared.close()


async def prepare_a_key(service: Service) -> str:
    """Make a key with rows that refer to it, and return its token."""
    await apply_small_workspace(service)
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]}, labels={"team": "blue"})
    return issued.token


@ONLY_GRPCIO
async def test_what_was_prepared_is_as_it_was(
    transport: str, postgres_url: str, shared_servers: Servers, tmp_path: Path
) -> None:
    """A key that was used and revoked is there again as it was, with its limits and labels, and works."""
    shared = SharedService(transport, (await shared_servers.on(postgres_url)).databases, lambda: tmp_path)
    try:
        async with shared.lent(prepare_a_key) as (service, _, token):
            first, applied = await rows(service), await last_applied(service)
        for _ in range(2):
            async with shared.lent(prepare_a_key) as (service, _, again):
                assert (again, await rows(service), await last_applied(service)) == (token, first, applied)
                assert (await service.service.authorize(token)).HasField("granted")
                key = (await list_keys(service.operator)).keys[0]
                await service.operator.revoke(key_id=key.id)
                assert await service.service.denial(token) == "REVOKED"
        async with shared.lent(apply_small_workspace) as (service, _, _):
            assert await service.service.denial(token) == "UNKNOWN"
            assert await last_applied(service) != applied
    finally:
        await shared.close()

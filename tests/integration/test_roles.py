"""A role that migrates and a role that serves, set up as docs/operations.md says, word for word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.catalog_service_pb2 import DeleteWorkspaceRequest, GetWorkspaceRequest, ListWorkspacesRequest
from skilder.keys.v1.key_service_pb2 import GetKeyRequest, ListKeysRequest
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.fence import prune
from skilder_keys.storage.migrations import migrate
from skilder_keys.storage.privileges import NEEDED
from tests.support.process import run_command
from tests.support.service import refusal, serving
from tests.support.stock import StockServer, stock_server
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SECURITY = PAGE.with_name("security.md")


async def run(url: str, statements: str) -> None:
    """Run statements one by one, as psql does."""
    sql = await asyncpg.connect(url)
    try:
        for statement in filter(str.strip, statements.split(";")):
            await sql.execute(statement)
    finally:
        await sql.close()


def documented() -> list[str]:
    """Return the SQL of the page's section on roles: for a superuser, and for the owner before and after `migrate`."""
    part = PAGE.read_text("utf-8").partition("### 4. Postgres: roles and tables")[2].partition("\n### ")[0]
    blocks = re.findall(r"<<'?SQL'?\n(.*?)\nSQL\n", part, re.DOTALL)
    assert len(blocks) == 3
    return blocks


@pytest.fixture
async def stock() -> AsyncIterator[StockServer]:
    """A server with the two roles and the migrated database of the page."""
    with stock_server() as server:
        roles, before, after = documented()
        await run(server.url(), roles)
        await run(server.url("keys", "keys_migrate"), before)
        await migrate(server.url("keys", "keys_migrate"))
        await run(server.url("keys", "keys_migrate"), after)
        yield server


async def test_every_method_works_with_the_documented_privileges(
    transport: str, stock: StockServer, tmp_path: Path
) -> None:
    """So do the fence, the audit trail and the removal of old changes; nothing more is allowed."""
    url = stock.url("keys", "keys_serve")
    (tmp_path / "other").mkdir()
    async with (
        serving(url, tmp_path, transport=transport, usage_interval=0.1) as service,
        serving(url, tmp_path / "other", transport=transport) as other,
    ):
        operator = service.operator
        await operator.apply(small_workspace())
        changed = small_workspace()
        changed.name = "Another"
        del changed.skills[0].tool_ids[:]
        await operator.apply(changed)
        await operator.apply(small_workspace())
        assert len((await operator.catalog.ListWorkspaces(ListWorkspacesRequest())).workspaces) == 1
        await operator.catalog.GetWorkspace(GetWorkspaceRequest(workspace_id="acme"))
        issued = await operator.issue(request_id="once")
        renewed = await operator.issue(request_id="once")
        limited = await operator.issue(hat_limit={"hat_ids": [small_workspace().hats[0].id]})
        for each in (renewed, limited):
            for by in (service, other):
                assert (await by.service.authorize(each.token)).HasField("granted")
        batch = pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=renewed.token)])
        await service.service.authorization.BatchAuthorize(batch)
        await operator.keys.GetKey(GetKeyRequest(key_id=issued.key.id))
        assert len((await operator.keys.ListKeys(ListKeysRequest(workspace_id="acme"))).keys) == 2
        await operator.revoke(key_id=renewed.key.id)
        await operator.revoke(token=limited.token)
        for each in (renewed, limited):
            assert await other.service.denial(each.token) == "REVOKED"
        await operator.catalog.DeleteWorkspace(DeleteWorkspaceRequest(workspace_id="acme"))
    database = await Database.open(DatabaseOptions(url))
    async with database.transaction() as connection:
        await prune(connection)
    await database.close()
    for forbidden in ("DELETE FROM audit_event", "UPDATE signing_key SET name = name", "DELETE FROM schema_migration"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(url, forbidden)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(url, "CREATE TABLE mine (id int)")


async def test_missing_privileges_are_named(stock: StockServer, tmp_path: Path) -> None:
    """The error has the role, the missing privilege, the table, and the statement that grants it."""
    owner, url = stock.url("keys", "keys_migrate"), stock.url("keys", "keys_serve")
    for revoke, words in (
        ("REVOKE INSERT ON audit_event FROM keys_serve", "the role keys_serve lacks INSERT on audit_event"),
        ("REVOKE UPDATE, SELECT ON key FROM keys_serve", "SELECT, UPDATE on key"),
        ("REVOKE SELECT ON schema_migration FROM keys_serve", "SELECT on schema_migration"),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, keys_serve", "GRANT USAGE ON SCHEMA public TO keys_serve"),
    ):
        await run(owner, revoke)
        done = run_command("serve", folder=tmp_path, SKILDER_KEYS_DATABASE_URL=url, SKILDER_KEYS_LISTEN="127.0.0.1:0")
        assert done.returncode == 6, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(UnavailableError) as caught:
        await run_migrate_as_serve(stock)
    assert "keys_serve" in str(caught.value.__cause__)


async def run_migrate_as_serve(stock: StockServer) -> None:
    """Migrate an empty database as a role without the right to do so."""
    await run(stock.url(), "CREATE DATABASE other OWNER keys_migrate TEMPLATE template0")
    await migrate(stock.url("other", "keys_serve"))


async def test_a_privilege_that_is_revoked_later_is_an_outage(
    transport: str, stock: StockServer, tmp_path: Path
) -> None:
    """It is not the caller's fault, and no denial."""
    async with serving(stock.url("keys", "keys_serve"), tmp_path, transport=transport) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await run(stock.url("keys", "keys_migrate"), "REVOKE SELECT ON key FROM keys_serve")
        refused = await refusal(service.service.authorize(issued.token))
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert "key" not in refused.message.split()


async def test_every_table_has_its_privileges_listed(sql: asyncpg.Connection[Any]) -> None:
    """So a migration that adds a table must say what the service does with it."""
    rows = await sql.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    assert {row["relname"] for row in rows} == set(NEEDED)


async def test_the_serving_role_can_do_what_the_threat_model_says(stock: StockServer, tmp_path: Path) -> None:
    """It can make a working key, which the page's query finds; it cannot undo what is on record."""
    url, token = stock.url("keys", "keys_serve"), Token.mint(KeyType.WORKSPACE, KeyId(uuid4()))
    secret_hash = SecretHasher(HashParameters()).hash(token.secret)
    async with serving(url, tmp_path, transport="grpcio") as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await service.operator.revoke(key_id=issued.key.id)
        sql = await asyncpg.connect(url)
        try:
            await sql.execute(
                """
                INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats,
                                 created_by_kind, created_by_id)
                VALUES ($1, 'workspace', 'acme', 'made by hand', $2, false, 'user', 'nobody')
                """,
                token.key_id,
                secret_hash,
            )
            query = SECURITY.read_text("utf-8").partition("```sql\n")[2].partition("```")[0]
            assert [row["id"] for row in await sql.fetch(query)] == [token.key_id]
        finally:
            await sql.close()
        assert (await service.service.authorize(token.reveal())).HasField("granted")
    for statement, error in (
        (
            "UPDATE key SET revoked_at = NULL, revoked_by_kind = NULL, revoked_by_id = NULL, revoke_reason = NULL",
            asyncpg.RaiseError,
        ),
        ("DELETE FROM key", asyncpg.InsufficientPrivilegeError),
        ("DELETE FROM workspace", asyncpg.InsufficientPrivilegeError),
        ("UPDATE audit_event SET caller = 'other'", asyncpg.InsufficientPrivilegeError),
        ("TRUNCATE audit_event", asyncpg.InsufficientPrivilegeError),
        ("ALTER TABLE key DISABLE TRIGGER USER", asyncpg.InsufficientPrivilegeError),
        ("SET session_replication_role = replica", asyncpg.InsufficientPrivilegeError),
        ("COPY key TO PROGRAM 'cat'", asyncpg.InsufficientPrivilegeError),
    ):
        with pytest.raises(error):
            await run(url, statement)

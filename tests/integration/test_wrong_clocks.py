"""Ids, last uses and expiry follow the database's clock, however wrong the clocks of the processes are."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import RFC_4122, UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import KeyLimit
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType, hint
from skilder_keys.storage import keys
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.integration.test_expiry import outcome_of, until_expired
from tests.support.calls import get_key, list_keys
from tests.support.lengths import by_form
from tests.support.process import FRESH, ServerProcess, serving_process
from tests.support.rows import NO_HASH, insert
from tests.support.service import Client
from tests.support.workers import operator_metadata
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

pytestmark = pytest.mark.stock_too

_ADA = Principal(PrincipalKind.USER, "ada")
_ORDER = KeySpec(KeyType.WORKSPACE, WorkspaceId("acme"), None, None, "Slack Support Bot", None, (KeyLimit.HATS,))


async def issue(database: Database) -> UUID:
    """Insert a key as IssueKey does, and return its id."""
    async with database.transaction() as transaction:
        key_id = await keys.insert(transaction, _ORDER, secret_hash=NO_HASH, created_by=_ADA, request=None)
        assert key_id is not None
        return key_id


async def test_ids_are_of_version_7_and_of_the_time_on_record(database: Database, sql: asyncpg.Connection[Any]) -> None:
    """Their first 48 bits are the milliseconds of `created_at`."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    for _ in range(20):
        key_id = await issue(database)
        created_at = await sql.fetchval("SELECT created_at FROM key WHERE id = $1", key_id)
        assert (key_id.version, key_id.variant) == (7, RFC_4122)
        assert key_id.int >> 80 == (created_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


async def test_ids_sort_as_they_were_made(database: Database, database_url: str, sql: asyncpg.Connection[Any]) -> None:
    """Also those of the same millisecond, on whichever connection; the rest of each is random."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    other = await Database.open(DatabaseOptions(database_url))
    made = [await issue(each) for _ in range(100) for each in (database, other)]
    await other.close()
    assert made == sorted(made, key=str)
    assert len({key_id.int & 2**62 - 1 for key_id in made}) == len(made)


async def test_hints_of_keys_made_at_the_same_moment_differ(database: Database, sql: asyncpg.Connection[Any]) -> None:
    """In one transaction, so that the time in their ids is exactly the same."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    async with database.transaction() as transaction:
        made = [
            await keys.insert(transaction, _ORDER, secret_hash=NO_HASH, created_by=_ADA, request=None)
            for _ in range(1000)
        ]
    assert len({key_id.int >> 64 for key_id in made if key_id}) == 1
    assert len({hint(KeyType.WORKSPACE, key_id) for key_id in made if key_id}) == len(made)


OFFSETS = [pytest.param("3d", id="three days"), pytest.param("1h", id="an hour")]


def wrong_clock(offset: str) -> dict[str, str]:
    """Return the variables that give a process another wall clock, or skip the test where that is impossible."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("libfaketime is needed but was not found (Debian: apt-get install faketime)")
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(params=by_form(OFFSETS[:1], OFFSETS[-1:], OFFSETS))
async def servers(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[list[Client]]:
    """Two servers on one database: one clock is fast, the other as slow."""
    async with AsyncExitStack() as stack:
        clients = []
        for name, offset in (("fast", f"+{request.param}"), ("slow", f"-{request.param}")):
            folder = tmp_path / name
            folder.mkdir()
            server = stack.enter_context(
                serving_process(
                    folder,
                    command=FRESH,
                    SKILDER_KEYS_DATABASE_URL=database_url,
                    SKILDER_KEYS_USAGE_INTERVAL="0.1",
                    **wrong_clock(offset),
                )
            )
            clients.append(await _client(server, folder, stack))
        yield clients


async def _client(server: ServerProcess, folder: Path, stack: AsyncExitStack) -> Client:
    address, (_, bearer) = server.address, *operator_metadata(server, folder)
    credentials = grpc.composite_channel_credentials(
        grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP),
        grpc.access_token_call_credentials(bearer.removeprefix("Bearer ")),
    )
    channel = await stack.enter_async_context(grpc.aio.secure_channel(address, credentials))
    return Client(channel)


@pytest.mark.long
async def test_servers_with_wrong_clocks_agree_on_order_and_last_use(
    servers: list[Client], sql: asyncpg.Connection[Any]
) -> None:
    """Keys that they issue in turn are listed newest first, and no use is in the future or days ago."""
    began = await sql.fetchval("SELECT now()")
    await servers[0].apply(small_workspace())
    issued = [await servers[number % 2].issue() for number in range(10)]
    newest_first = [each.key.id for each in issued[::-1]]
    for server in servers:
        assert [key.id for key in (await list_keys(server)).keys] == newest_first
    await sql.execute("UPDATE key SET last_used_at = now() - interval '1 hour' WHERE id = ANY($1)", newest_first[:2])
    for each in issued:
        for server in servers:
            assert (await server.authorize(each.token)).HasField("granted")
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT count(*) FROM key WHERE last_used_at < $1", began):
            await asyncio.sleep(0.05)
    now = await sql.fetchval("SELECT now()")
    for each in issued:
        key = await get_key(servers[0], each.key.id)
        assert began <= key.created_at.ToDatetime(UTC) <= key.last_used_at.ToDatetime(UTC) <= now
    assert os.environ.get("LD_PRELOAD") is None  # the clock of the tests is right


@pytest.mark.long
async def test_wrong_clocks_neither_lengthen_nor_shorten_a_life(
    servers: list[Client], sql: asyncpg.Connection[Any]
) -> None:
    """Each server issues a key, and both decide about both: by the database's clock, to the moment."""
    await servers[0].apply(small_workspace())
    issued = [await server.issue(lifetime=Duration(seconds=4)) for server in servers]
    for each in issued:
        made = each.key.created_at.ToDatetime(UTC)
        assert each.key.expires_at.ToDatetime(UTC) - made == timedelta(seconds=4)
        ways: dict[str, Callable[[], Awaitable[str]]] = {
            f"server {number}": partial(_outcome, server, each.token) for number, server in enumerate(servers)
        }
        said = await until_expired(sql, each.key.expires_at.ToDatetime(UTC), ways)
        assert each is not issued[0] or all(answers.count("granted") > 2 for answers in said.values()), said
    with pytest.raises(grpc.aio.AioRpcError, match="which is past"):
        await servers[1].issue(expires_at=issued[0].key.expires_at)
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC) + timedelta(minutes=10))
    for server in servers:
        assert (await server.issue(expires_at=at)).key.state == key_pb2.KEY_STATE_ACTIVE


async def _outcome(server: Client, token: str) -> str:
    return outcome_of(await server.authorize(token))

"""No statement about families of keys, or about the keys of a runtime instance, reads keys that it does not need."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.ids import RuntimeId, WorkspaceId
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import key_families, keys
from tests.support.many_keys import assert_by_index, key_id
from tests.support.plans import Mode, plans
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)

_ADA = Principal(PrincipalKind.USER, "ada")
_ACME, _RUNTIME = WorkspaceId("acme"), RuntimeId("r51")
_ID = key_id(102)


@pytest.fixture(scope="module")
async def blank(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database right after the migrations. A plan made now is kept while the tables grow."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


async def _insert_successor(sql: Connection) -> None:
    key = await keys.find(sql, _ID)
    assert key is not None
    assert key.hat_ids
    request = keys.IssueRequest("console", "another", b"x" * 32)
    await key_families.lock(sql, [_ID])
    await key_families.insert_successor(
        sql, key, secret_hash=NO_HASH, expires_at=None, created_by=_ADA, request=request
    )


async def _live_families(sql: Connection) -> None:
    await key_families.lock_runtime(sql, _ACME, _RUNTIME)
    await key_families.live_families(sql, _ACME, _RUNTIME)


def _locked(run: Callable[[Connection], Awaitable[object]]) -> Callable[[Connection], Awaitable[object]]:
    async def locked(sql: Connection) -> None:
        await key_families.lock(sql, [_ID])
        await run(sql)

    return locked


_OF_NOTHING: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "lock": lambda sql: key_families.lock(sql, [_ID]),
    "planned_lifetime": _locked(lambda sql: key_families.planned_lifetime(sql, _ID)),
    "live_successor": _locked(lambda sql: key_families.live_successor(sql, _ID)),
    "members": _locked(lambda sql: key_families.members(sql, [_ID])),
    "revoke": lambda sql: key_families.revoke(sql, [_ID], by=_ADA, reason=""),
    "live_families": _live_families,
}
_OF_A_KEY = _OF_NOTHING | {
    "insert_successor": _insert_successor,
    "end_after": _locked(lambda sql: key_families.end_after(sql, _ID, timedelta(days=1))),
}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _OF_A_KEY)
@TOGETHER_IF_SHORT
async def test_a_family_is_found_by_an_index(full: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """In a workspace with 20,000 keys."""
    assert_by_index(await plans(full, _OF_A_KEY[name], mode))


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _OF_NOTHING)
async def test_plans_made_for_empty_tables_are_good_for_full_ones(
    blank: asyncpg.Connection[Any], name: str, mode: Mode
) -> None:
    """A connection keeps such a plan, and only new statistics would replace it."""
    assert_by_index(await plans(blank, _OF_NOTHING[name], mode))


async def test_the_keys_of_a_runtime_are_found_without_reading_others(full: asyncpg.Connection[Any]) -> None:
    """Of 400 runtime keys, those of one."""
    for plan in await plans(full, _live_families, "generic", analyze=True):
        assert plan.rows_read("key") <= 1, plan

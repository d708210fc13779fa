"""What a key policy compares a new key with is found by an index, in any plan, however many keys there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.storage import policy_keys
from skilder_keys.storage.keys import IssueRequest
from tests.support.many_keys import assert_by_index
from tests.support.plans import Mode, plans

if TYPE_CHECKING:
    import asyncpg

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_a_users_keys_are_counted_by_index(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """Only that user's are read."""
    user = UserId("u77")
    *_, plan = await plans(full, lambda sql: policy_keys.count_of_user(sql, ACME, user), mode, analyze=True)
    assert_by_index([plan])
    assert plan.rows_read("key") <= 25, plan
    assert await policy_keys.count_of_user(full, ACME, user) > 0


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("description", ["SLACK support bot", "Nothing has this"])
async def test_a_description_is_found_by_index(full: asyncpg.Connection[Any], mode: Mode, description: str) -> None:
    """One key is read, also if very many have it."""
    *_, plan = await plans(
        full, lambda sql: policy_keys.find_described(sql, ACME, description, None), mode, analyze=True
    )
    assert_by_index([plan])
    assert plan.rows_read("key") <= 1, plan
    found = await policy_keys.find_described(full, ACME, description, None)
    assert (found is not None) == description.startswith("SLACK")


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_a_request_is_found_by_index(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """By its caller and id."""
    request = IssueRequest("console", "r7", b"")
    *_, plan = await plans(full, lambda sql: policy_keys.is_issued(sql, request), mode, analyze=True)
    assert_by_index([plan])
    assert plan.rows_read("key") <= 1, plan
    assert await policy_keys.is_issued(full, request)

"""A page of the workspaces of a member reads theirs only, by an index, in any plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.workspace_lists import WorkspaceFilter
from skilder_keys.storage import workspace_lists
from tests.support.many_keys import LIMIT, assert_by_index, page_of_workspaces
from tests.support.plans import Mode, plans, undone
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

pytestmark = pytest.mark.stock_too(in_turn=True)

# The user u77 becomes a member of all 2,001 workspaces, and u78 of the first 5 and of the last of these.
_MEMBERSHIPS = """
INSERT INTO member (workspace_id, user_id, role)
SELECT id, 'u77', 'viewer' FROM workspace WHERE id <> 'acme';
INSERT INTO member (workspace_id, user_id, role)
SELECT id, 'u78', 'viewer' FROM workspace WHERE id <> 'acme' AND (id = 'w2000' OR id < 'w1003')
"""


class Members(NamedTuple):
    """A connection whose transaction has added members, and whether Postgres has counted them."""

    sql: asyncpg.Connection[Any]
    analyzed: bool


@pytest.fixture(scope="module", params=[True, False])
async def members(full: asyncpg.Connection[Any], request: pytest.FixtureRequest) -> AsyncIterator[Members]:
    """Users with many workspaces: added once for all tests, as the triggers take long."""
    async with undone(full):
        await full.execute(_MEMBERSHIPS)
        if request.param:
            await full.execute("ANALYZE member")
        yield Members(full, request.param)


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    ("user", "after", "most"),
    [("u77", None, 2001), ("u77", "w1500", 2001), ("u79", None, 1)],
    ids=["many", "later page", "one"],
)
@TOGETHER_IF_SHORT
async def test_a_page_of_a_members_workspaces_reads_theirs_only(
    members: Members, mode: Mode, user: str, after: str | None, most: int
) -> None:
    """By an index; with statistics in its order, and no more of them than the page shows."""
    (plan,) = await plans(members.sql, lambda sql: page_of_workspaces(sql, user, after=after), mode, analyze=True)
    assert_by_index([plan])
    read = max(plan.rows_read("member"), plan.rows_read("workspace"))
    assert read <= (min(most, LIMIT) if members.analyzed else most), plan
    if members.analyzed:
        assert {"Sort", "Incremental Sort"}.isdisjoint(plan.kinds()), plan


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(("user", "actor"), [("u77", "u78"), ("u78", "u77"), ("u77", "u77"), ("u77", "nobody")])
@TOGETHER_IF_SHORT
async def test_a_page_of_the_workspaces_of_two_reads_those_of_one(
    members: Members, mode: Mode, user: str, actor: str
) -> None:
    """And of each whether the other is in it, by an index: never another member of it."""
    (plan,) = await plans(members.sql, lambda sql: page_of_workspaces(sql, user, actor=actor), mode, analyze=True)
    theirs = await members.sql.fetchval("SELECT count(*) FROM member WHERE user_id = $1", user)
    assert_by_index([plan])
    assert plan.rows_read("member") <= 2 * theirs, plan
    assert plan.rows_read("workspace") <= theirs, plan


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_a_page_of_a_limited_caller_reads_only_what_it_is_allowed(members: Members, mode: Mode) -> None:
    """However many other workspaces lie between. Of a member's workspaces, those of that member."""
    only = {WorkspaceId(each) for each in ("w1", "w1500", "w2000", "nowhere")}
    theirs = await members.sql.fetchval("SELECT count(*) FROM member WHERE user_id = 'u78'")
    for user, after, most in ((None, None, 3), (None, "w1400", 2), ("u78", None, theirs)):
        some = WorkspaceFilter(None if user is None else UserId(user))
        (plan,) = await plans(
            members.sql,
            lambda sql: workspace_lists.list_page(sql, some, actor=None, after=after, limit=LIMIT, only=only),  # noqa: B023 - called at once
            mode,
            analyze=True,
        )
        assert_by_index([plan])
        assert max(plan.rows_read("workspace"), plan.rows_read("member")) <= most, plan

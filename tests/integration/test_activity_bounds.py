"""A read of activity ends soon, however much there is and however little of it matches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1.activity_service_pb2 import USAGE_GROUP_KEY, USAGE_GROUP_USER, ActivityFilter, ListActivityRequest
from skilder.keys.v1.authorization_service_pb2 import DENIAL_REASON_UNKNOWN
from skilder_keys.rpc import convert_activity
from skilder_keys.storage import activity_looks, activity_partitions, activity_usage
from skilder_keys.storage.activity_partitions import Retention
from tests.support.activity_facts import Fact, get_usage, insert_facts, insert_unproven, roll_up
from tests.support.rows import insert_key
from tests.support.service import refusal
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from skilder.keys.v1.activity_service_pb2 import Activity
    from tests.support.service import Service

pytestmark = [ONLY_GRPCIO, pytest.mark.own_service]

DAYS = 6
MINUTES = 20


@pytest.fixture
async def keys(empty_service: Service, sql: asyncpg.Connection[Any]) -> list[UUID]:
    """Two keys that were used in 20 minutes of each of 6 days, of which two are not rolled up, and one before."""
    await empty_service.operator.apply(small_workspace())
    made = [await insert_key(sql) for _ in range(2)]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    last = [int((now - timedelta(days=day)).timestamp()) // 60 for day in range(DAYS)]
    minutes = [each - 7 * index for each in last for index in range(MINUTES)]
    await insert_facts(sql, [Fact(minute, key) for minute in minutes for key in made])
    other = await insert_key(sql)
    await insert_facts(sql, [Fact(last[-1] - 3 * 1440, other, tool="slack.post", caller="other")])
    await roll_up(sql, {(2, last[index] // 1440) for index in range(2)})
    async with sql.transaction():
        # Now, so that the service does not do it between two pages.
        await activity_partitions.drop_old(sql, Retention())
    return made


async def pages(service: Service, **fields: Any) -> list[Sequence[Activity]]:
    """Return all pages of a list."""
    found: list[Sequence[Activity]] = []
    token = ""
    while not found or token:
        request = ListActivityRequest(**fields, page_size=1000, page_token=token)
        page = await service.operator.activity.ListActivity(request)
        found.append(page.activities)
        token = page.next_page_token
    return found


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("caller", ["gateway", "other"])
async def test_a_page_ends_when_its_time_is_over(
    empty_service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch, caller: str
) -> None:
    """The next one goes on where it ended: together they have everything, also where nothing matches."""
    # All of the last two days: older minutes may be dropped between two pages.
    now = int(datetime.now(UTC).timestamp()) // 60
    for ago in range(0, 2 * 1440 - 60, 100):
        await insert_unproven(sql, now - ago, ["gateway"], DENIAL_REASON_UNKNOWN)
    lists: list[dict[str, Any]] = [{"workspace_id": "acme"}, {"unproven": True}]
    for fields in lists:
        wanted = ActivityFilter(caller=caller)
        wanted.after.FromDatetime(datetime.now(UTC) - timedelta(days=DAYS + 9))
        asked = fields | {"filter": wanted}
        whole = await pages(empty_service, **asked)
        assert len(whole) == 1
        monkeypatch.setattr(activity_looks, "PAGE_SECONDS", 0.0)
        found = await pages(empty_service, **asked)
        monkeypatch.undo()
        assert [each for page in found for each in page] == list(whole[0])
        assert len(found) > 3


@pytest.mark.parametrize("fields", [{}, {"tool_id": "slack.post"}, {"caller": "other"}])
async def test_a_sum_of_too_many_counts_is_refused(
    empty_service: Service,
    keys: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    """Also if few of them match: to find these, all must be read. Those of a single key are found at once."""
    wanted = ActivityFilter(**fields)
    wanted.after.FromDatetime(datetime.now(UTC) - timedelta(days=DAYS))

    async def usage(**more: Any) -> object:
        return await get_usage(empty_service.operator, 86400, filter=wanted, **more)

    monkeypatch.setattr(activity_usage, "MAX_FACTS", 2 * DAYS * MINUTES)
    await usage()
    # A key has facts of four days and, in place of two days, of three or four hours each.
    monkeypatch.setattr(activity_usage, "MAX_FACTS", 16)
    for group in (0, USAGE_GROUP_KEY, USAGE_GROUP_USER):
        refused = await refusal(usage(group_by=group))
        assert (refused.reason, list(refused.fields)) == ("INVALID_REQUEST", ["filter.after"])
    wanted.key_id = str(keys[0])
    await usage()


async def test_many_lookups_of_single_keys_are_refused(
    empty_service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key of a user is looked up in each step."""
    await empty_service.operator.apply(small_workspace())
    made = [await insert_key(sql, type="user", user_id="ada") for _ in range(10)]
    await insert_facts(sql, [Fact(int(datetime.now(UTC).timestamp()) // 60 - 5, key) for key in made])
    wanted = ActivityFilter(user_id="ada")
    wanted.after.FromDatetime(datetime.now(UTC) - timedelta(minutes=30))
    monkeypatch.setattr(activity_usage, "MAX_FACTS", 10 * 31)
    await get_usage(empty_service.operator, 60, filter=wanted)
    monkeypatch.setattr(activity_usage, "MAX_FACTS", 10 * 20)
    refused = await refusal(get_usage(empty_service.operator, 60, filter=wanted))
    assert (refused.reason, list(refused.fields)) == ("INVALID_REQUEST", ["filter.after"])


@pytest.mark.usefixtures("keys")
async def test_series_are_made_outside_of_the_event_loop(
    empty_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be 75,000 points, which take too long for it; so does the response that they make."""
    threads: dict[str, int] = {}

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def noted(*arguments: Any) -> object:
            threads[name] = threading.get_ident()
            return real(*arguments)

        monkeypatch.setattr(owner, name, noted)

    watch(activity_usage.SummedUsage, "series")
    watch(convert_activity, "usage_response")
    await get_usage(empty_service.operator, 86400)
    assert threads.keys() == {"series", "usage_response"}
    assert threading.get_ident() not in threads.values()

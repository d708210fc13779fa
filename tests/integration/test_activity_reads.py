"""ListActivity and GetUsage return what a plain model does, whatever was rolled up and removed."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1.activity_service_pb2 import (
    USAGE_GROUP_CALLER,
    USAGE_GROUP_KEY,
    USAGE_GROUP_TOOL,
    USAGE_GROUP_UNSPECIFIED,
    USAGE_GROUP_USER,
    VERDICT_DENIED,
    VERDICT_GRANTED,
    ActivityFilter,
)
from skilder.keys.v1.authorization_service_pb2 import (
    DENIAL_REASON_EXPIRED,
    DENIAL_REASON_TOOL_NOT_ALLOWED,
    DENIAL_REASON_UNKNOWN,
)
from skilder_keys.storage import activity_partitions, activity_rollup
from skilder_keys.storage.activity_partitions import Retention
from skilder_keys.storage.activity_rollup import Part, Roll
from tests.support.activity_facts import (
    DAY,
    HOUR,
    Fact,
    calls,
    get_usage,
    insert_facts,
    insert_unproven,
    list_activity,
    listed,
    points_of,
    roll_up,
    seen,
    summed,
)
from tests.support.lengths import by_form
from tests.support.rows import insert_key
from tests.support.service import refusal
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Service

pytestmark = ONLY_GRPCIO

TOOLS = ["", "*", "web.search", "slack.post", "git.commit"]
CALLERS = ["gateway", "runtime:r-1"]
OUTCOMES = [0, 0, 0, DENIAL_REASON_TOOL_NOT_ALLOWED, DENIAL_REASON_EXPIRED]
SOURCES = [None, "192.0.2.1", "2001:db8::1"]
DAYS_AGO = [0, 1, 2, 3, 20, 89, 130, 200]


class World:
    """Facts of a year, of which the minutes and hours that are old enough were removed."""

    def __init__(self, seed: random.Random) -> None:
        self.random = seed
        self.now = datetime.now(UTC)
        today = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        self.today = minute_of(today)
        self.minutes_from = minute_of(today - timedelta(days=2))
        self.hours_from = minute_of((today - timedelta(days=90)).replace(day=1))
        self.users: dict[UUID, str] = {}
        self.families: dict[UUID, UUID] = {}
        self.facts: list[Fact] = []

    async def prepare(self, service: Service, sql: asyncpg.Connection[Any]) -> None:
        """Write keys and facts of two workspaces, roll up all but a few hours and days, and remove what is old."""
        for name in ("acme", "other"):
            await service.operator.apply(small_workspace(name))
        keys = []
        for user in ("", "", "ada", "bob", "bob"):
            key_id = await insert_key(sql, **({"type": "user", "user_id": user} if user else {}))
            self.users[key_id] = user
            self.families[key_id] = key_id
            keys.append(key_id)
        successor = await insert_key(sql, family_id=keys[0], predecessor_id=keys[0])
        self.users[successor], self.families[successor] = "", keys[0]
        foreign = await insert_key(sql, workspace_id="other")
        made = {
            (fact.minute, fact.key_id, fact.tool, fact.caller, fact.outcome): fact
            for fact in self._make([*keys, successor])
        }
        self.facts = list(made.values())
        others = [Fact(fact.minute, foreign, workspace="other", count=1000) for fact in self.facts[::7]]
        await insert_facts(sql, [*self.facts, *{fact.minute: fact for fact in others}.values()])
        old, in_part = self.today - 20 * DAY, self.today - DAY + 600
        await roll_up(
            sql,
            {
                (1, minute_of(self.now) // HOUR),
                (1, in_part // HOUR),
                (2, self.today // DAY),
                (2, self.today // DAY - 1),
                (2, old // DAY),
            },
        )
        async with sql.transaction():
            hour = in_part // HOUR
            await activity_rollup.sum_up_part(sql, Part(Roll.HOUR, hour, hour * HOUR, in_part + 1))
            await activity_rollup.sum_up_part(sql, Part(Roll.DAY, hour // 24, hour // 24 * 24, hour))
            await activity_partitions.drop_old(sql, Retention())

    def _make(self, keys: list[UUID]) -> list[Fact]:
        chosen = self.random
        facts = []
        for _ in range(by_form(400, 2000, 4000)):
            minute = self.today - chosen.choice(DAYS_AGO) * DAY + chosen.choice([3, 600, 601, 615, 1439])
            first = chosen.randrange(60_000)
            facts.append(
                Fact(
                    min(minute, minute_of(self.now)),
                    chosen.choice(keys),
                    chosen.choice(TOOLS),
                    chosen.choice(CALLERS),
                    chosen.choice(OUTCOMES),
                    chosen.randrange(1, 50),
                    first,
                    chosen.randrange(first, 60_000),
                    chosen.choice(SOURCES),
                )
            )
        return facts

    def group_of(self, group: int, fact: Fact) -> str:
        """Return the id of the series that a fact belongs to."""
        ids: dict[int, str] = {
            USAGE_GROUP_KEY: str(fact.key_id),
            USAGE_GROUP_USER: self.users[fact.key_id],
            USAGE_GROUP_TOOL: fact.tool,
            USAGE_GROUP_CALLER: fact.caller,
        }
        return ids.get(group, "")

    def filter(self) -> Any:
        """Return a filter by chance."""
        chosen = self.random
        key_id = chosen.choice(list(self.users))
        wanted: Any = ActivityFilter()
        for name, value in {
            "key_id": str(key_id),
            "family_id": str(self.families[key_id]),
            "user_id": chosen.choice(["ada", "bob", "cyd"]),
            "tool_id": chosen.choice([*TOOLS[1:], "no.such.tool"]),
            "caller": chosen.choice([*CALLERS, "nobody"]),
            "verdict": chosen.choice([VERDICT_GRANTED, VERDICT_DENIED]),
        }.items():
            if chosen.random() < 0.2:
                setattr(wanted, name, value)
        if chosen.random() < 0.2:
            wanted.denial_reasons.append(chosen.choice(OUTCOMES[3:]))
        return wanted

    def matching(self, wanted: ActivityFilter) -> list[Fact]:
        """Return the facts that match a filter, whose times are left to others."""
        return [
            fact
            for fact in self.facts
            if wanted.key_id in ("", str(fact.key_id))
            and wanted.family_id in ("", str(self.families[fact.key_id]))
            and wanted.user_id in ("", self.users[fact.key_id])
            and wanted.tool_id in ("", fact.tool)
            and wanted.caller in ("", fact.caller)
            and (not wanted.verdict or (wanted.verdict == VERDICT_DENIED) is bool(fact.outcome))
            and (not wanted.denial_reasons or fact.outcome in wanted.denial_reasons)
        ]


def minute_of(moment: datetime) -> int:
    """Return the minute of a time, since 1970."""
    return int(moment.timestamp() // 60)


def time_of(minute: int) -> Timestamp:
    """Return the time when a minute begins."""
    return Timestamp(seconds=minute * 60)


@pytest.fixture
async def world(empty_service: Service, sql: asyncpg.Connection[Any]) -> World:
    """Facts of a year."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    made = World(random.Random(seed))  # noqa: S311 - chance, not a secret
    await made.prepare(empty_service, sql)
    return made


async def test_activity_is_listed_as_a_plain_model_has_it(empty_service: Service, world: World) -> None:
    """With filters by chance, in pages of any size, newest first, and nothing of the other workspace."""
    sizes = set()
    for _ in range(by_form(15, 100, 300)):
        wanted = world.filter()
        expected = listed(world.matching(wanted), world.minutes_from, world.hours_from)
        if world.random.random() < 0.5:
            bounds = sorted(world.random.choice(world.facts).minute for _ in range(2))
            wanted.after.CopyFrom(time_of(bounds[0]))
            wanted.before.CopyFrom(time_of(bounds[1]))
            expected = [each for each in expected if bounds[0] <= each[0] < bounds[1]]
        found: list[Any] = []
        token, size = "", world.random.choice([1, 7, 100, 1000] if len(expected) < 100 else [100, 1000])
        while not found or token:
            page = await list_activity(empty_service.operator, filter=wanted, page_size=size, page_token=token)
            assert all(each.workspace_id == "acme" for each in page.activities)
            assert all(each.user_id == world.users[UUID(each.key_id)] for each in page.activities)
            found += map(seen, page.activities)
            token = page.next_page_token
            if not token:
                break
        assert sorted(found) == sorted(expected), wanted
        assert [each[0] for each in found] == sorted((each[0] for each in found), reverse=True)
        sizes.add(min(len(found), 3))
    assert len(sizes) > 1


async def test_denials_of_unproven_tokens_are_of_no_workspace(
    empty_service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """Only a caller without an actor and without a limit sees them, with page tokens of their own."""
    operator, minute = empty_service.operator, minute_of(datetime.now(UTC)) - 5
    await operator.apply(small_workspace())
    await insert_facts(sql, [Fact(minute, await insert_key(sql), caller=name) for name in ("a", "b")])
    for ago, hint in ((0, "USK_4mBq8Jd41x"), (1, ""), (3, "")):
        await insert_unproven(sql, minute - ago, ["a", "b"], DENIAL_REASON_UNKNOWN, hint)
    first = await list_activity(operator, workspace_id="", unproven=True, page_size=4)
    last = await list_activity(operator, workspace_id="", unproven=True, page_token=first.next_page_token)
    found = [*first.activities, *last.activities]
    assert [(minute - each.start_at.seconds // 60, each.hint) for each in found] == [
        *[(0, "USK_4mBq8Jd41x")] * 2,
        *[(1, "")] * 2,
        *[(3, "")] * 2,
    ]
    assert sorted(each.caller for each in found) == ["a", "a", "a", "b", "b", "b"]
    assert not any(each.workspace_id or each.key_id or each.user_id for each in found)
    chosen = ActivityFilter(caller="a", denial_reasons=[DENIAL_REASON_UNKNOWN], after=time_of(minute - 1))
    page = await list_activity(operator, workspace_id="", unproven=True, filter=chosen)
    assert [each.start_at.seconds // 60 for each in page.activities] == [minute, minute - 1]
    of_acme = await list_activity(operator, page_size=1)
    for fields, reason in (
        ({"page_token": of_acme.next_page_token}, "INVALID_REQUEST"),
        ({"workspace_id": "acme"}, "INVALID_REQUEST"),
        ({"filter": ActivityFilter(user_id="bob")}, "INVALID_REQUEST"),
        ({"filter": ActivityFilter(verdict=VERDICT_DENIED)}, "INVALID_REQUEST"),
        ({"actor": "ada"}, "ACTOR_NOT_ALLOWED"),
    ):
        asked = {"workspace_id": "", "unproven": True} | fields
        assert (await refusal(list_activity(operator, **asked))).reason == reason, fields
    limited = await refusal(list_activity(empty_service.of_acme, workspace_id="", unproven=True))
    assert limited.reason == "FOREIGN_WORKSPACE"
    by_a_console = await refusal(list_activity(empty_service.console, workspace_id="", unproven=True, actor="ada"))
    assert by_a_console.reason == "ACTOR_NOT_ALLOWED"


GROUPS = [
    USAGE_GROUP_UNSPECIFIED,
    USAGE_GROUP_KEY,
    USAGE_GROUP_USER,
    USAGE_GROUP_TOOL,
    USAGE_GROUP_CALLER,
]
FURTHEST = {1: 1, HOUR: 50, DAY: 250}
"""How many days ago a sum by minutes, hours and days may begin, with 1,500 points."""


async def test_usage_is_summed_up_as_a_plain_model_has_it(empty_service: Service, world: World) -> None:
    """With filters, steps, groups and numbers of series by chance: the series with most calls, and the rest."""
    rests = 0
    for _ in range(by_form(30, 200, 600)):
        wanted, length, top = world.filter(), world.random.choice([1, HOUR, DAY]), world.random.choice([1, 2, 3, 50])
        group = world.random.choice(GROUPS)
        start = world.today - world.random.randrange(FURTHEST[length] + 1) * DAY + world.random.choice([0, 600])
        start -= start % length
        end = start + world.random.choice([30, 1500]) * length
        wanted.after.CopyFrom(time_of(start))
        wanted.before.CopyFrom(time_of(end))
        facts = [fact for fact in world.matching(wanted) if start <= fact.minute < end]
        usage = await get_usage(empty_service.operator, length * 60, filter=wanted, group_by=group, top=top)
        by_id: dict[str, list[Fact]] = {}
        for fact in facts:
            by_id.setdefault(world.group_of(group, fact), []).append(fact)
        if not group:
            assert [series.id for series in usage.series] == [""]
            assert points_of(usage.series[0]) == summed(facts, length)
            continue
        shown = {series.id: points_of(series) for series in usage.series}
        assert shown == {id_: summed(by_id[id_], length) for id_ in shown}
        most = sorted((calls(summed(each, length)) for each in by_id.values()), reverse=True)
        assert [calls(points_of(series)) for series in usage.series] == most[:top]
        others = [fact for fact in facts if world.group_of(group, fact) not in shown]
        assert points_of(usage.rest) == summed(others, length)
        assert usage.HasField("rest") is bool(others)
        rests += bool(others)
    assert rests

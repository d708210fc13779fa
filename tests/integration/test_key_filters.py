"""What a filter of keys finds: by runtime, creator, hint, words, labels, time of issue and missing limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2, key_service_pb2
from tests.support.calls import caller, count_keys, list_keys, user
from tests.support.rows import NO_HASH, insert_key
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

pytestmark = ONLY_GRPCIO

RUNTIME, USER = key_pb2.KEY_TYPE_RUNTIME, key_pb2.KEY_TYPE_USER
HATS = key_pb2.KEY_LIMIT_HATS


async def found(client: Client, **wanted: Any) -> list[str]:
    """Return the descriptions of the keys that a filter finds, newest first.

    Every order has the same keys, page by page, and a count as many.
    """
    key_filter = key_service_pb2.KeyFilter(**wanted)
    whole = [key.description for key in (await list_keys(client, filter=key_filter)).keys]
    counts = (await count_keys(client, filter=key_filter)).counts
    assert sum(each.count for each in counts) == len(whole), wanted
    for order in key_service_pb2.KeyOrder.values():
        listed: list[str] = []
        token = ""
        while True:
            page = await list_keys(client, filter=key_filter, order_by=order, page_size=2, page_token=token)
            listed += [key.description for key in page.keys]
            token = page.next_page_token
            if not token:
                break
        assert sorted(listed) == sorted(whole), (wanted, order)
        if order in {key_service_pb2.KEY_ORDER_UNSPECIFIED, key_service_pb2.KEY_ORDER_NEWEST}:
            assert listed == whole
    return whole


def at(moment: datetime) -> Timestamp:
    """Return a time as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


async def test_keys_of_runtimes_and_creators(service: Service) -> None:
    """One or several runtime instances; a user and a caller of the same name are two."""
    await service.operator.apply(small_workspace())
    for runtime_id in ("r1", "r2", "r1"):
        kept = {"previous_keys": "PREVIOUS_KEYS_KEEP"}
        await service.operator.issue(type=RUNTIME, runtime_id=runtime_id, description=runtime_id, **kept)
    await service.console.issue(description="by ada", actor="ada")
    await service.console.issue(description="by bob", actor="bob", type=USER, user_id="bob")
    client = service.operator
    assert await found(client, runtime_ids=["r1"]) == ["r1", "r1"]
    assert await found(client, runtime_ids=["r2", "r1", "r2", "r3"]) == ["r1", "r2", "r1"]
    assert await found(client, runtime_ids=["r1"], types=[RUNTIME]) == ["r1", "r1"]
    assert await found(client, runtime_ids=["r1"], types=[USER]) == []
    assert await found(client, runtime_ids=["r1"], user_ids=["bob"]) == []
    assert await found(client, created_by=user("ada")) == ["by ada"]
    assert await found(client, created_by=caller("operator")) == ["r1", "r2", "r1"]
    assert await found(client, created_by=user("operator")) == []
    assert await found(client, created_by=user("bob"), user_ids=["bob"]) == ["by bob"]
    assert await found(client, created_by=caller("operator"), runtime_ids=["r2"]) == ["r2"]


async def test_a_key_is_found_by_its_hint(service: Service) -> None:
    """Only the one key, whatever its type. The hint of another type with the same characters finds nothing."""
    client = service.operator
    for number in range(3):
        issued = await client.issue(description=f"bot {number}")
        other = await client.issue(description=f"bob {number}", type=USER, user_id="bob")
        for each in (issued.key, other.key):
            assert await found(client, hint=each.hint) == [each.description]
            assert await found(client, hint=each.hint, states=[key_pb2.KEY_STATE_REVOKED]) == []
            assert await found(client, hint=f"RTK_{each.hint[4:]}") == []
    assert await found(client, hint="WSK_0000000000") == []


WORDS = {
    "Slack Support Bot": {"slack", "SUPPORT bot", "bot slack", "Slack, bot!", "slack slack"},
    "slack-bot/eu_1 (v2.5)": {"slack bot", "eu 1", "v2", "5", "slack-bot/eu_1", "SLACK.BOT"},
    "Büro für Ümläute": {"büro", "für büro", "Büro"},
    "🤖 robot": {"robot"},
    "it's a “test”": {"test", "it s", "'a'"},
}


async def test_keys_are_found_by_words(service: Service) -> None:
    """Whole words in any order, divided by spaces and punctuation, upper or lower case. All of them must be there."""
    for description in WORDS:
        await service.operator.issue(description=description)
    await service.operator.apply(small_workspace("other"))
    await service.operator.issue(workspace_id="other", description="slack")
    for description, texts in WORDS.items():
        for text in texts:
            assert description in await found(service.operator, text=text), text
    assert await found(service.operator, text="slack") == ["slack-bot/eu_1 (v2.5)", "Slack Support Bot"]
    for text in ("slac", "lack", "slackbot", "slack robot", "unheard", "acme", "team"):
        assert await found(service.operator, text=text) == [], text


async def test_keys_are_found_by_labels(service: Service) -> None:
    """All of them, with the value or with any; together with words, types and users."""
    client = service.operator
    await client.issue(description="one bot", labels={"team": "support", "example.com/env": "live"})
    await client.issue(description="two", labels={"team": "sales", "env": ""})
    await client.issue(description="three bot", type=USER, user_id="bob", labels={"team": "support"})
    await client.issue(description="four team support bot")
    assert await found(client, labels=["team"]) == ["three bot", "two", "one bot"]
    assert await found(client, labels=["team=support"]) == ["three bot", "one bot"]
    assert await found(client, labels=["env"]) == await found(client, labels=["env="]) == ["two"]
    assert await found(client, labels=["team", "example.com/env=live"]) == ["one bot"]
    assert await found(client, labels=["team=support", "team=sales"]) == []
    for label in ("tea", "team=", "support", "team=suppor", "Team", "example.com/env=", "com/env"):
        assert await found(client, labels=[label]) == [], label
    assert await found(client, labels=["team=support"], types=[USER]) == ["three bot"]
    assert await found(client, labels=["team=support"], user_ids=["bob", "cyd"]) == ["three bot"]
    assert await found(client, labels=["team"], text="bot") == ["three bot", "one bot"]
    assert await found(client, labels=["team=sales"], text="bot") == []
    assert await found(client, labels=["team"], states=[key_pb2.KEY_STATE_REVOKED]) == []


async def test_keys_are_found_by_the_time_of_issue(service: Service) -> None:
    """At or after one time, before another, to the microsecond, also beyond all keys."""
    client = service.operator
    keys = [(await client.issue(description=f"{number}")).key for number in range(5)]
    moments = [key.created_at.ToDatetime(tzinfo=UTC) for key in keys]
    assert len(set(moments)) == 5
    tick = timedelta(microseconds=1)
    for number, moment in enumerate(moments):
        later = [f"{each}" for each in reversed(range(number, 5))]
        earlier = [f"{each}" for each in reversed(range(number))]
        assert await found(client, created_after=at(moment)) == later
        assert await found(client, created_after=at(moment + tick)) == later[:-1]
        assert await found(client, created_before=at(moment)) == earlier
        assert await found(client, created_before=at(moment + tick)) == [f"{number}", *earlier]
        assert await found(client, created_after=at(moment), created_before=at(moment)) == []
        assert await found(client, created_after=at(moment), created_before=at(moment + tick)) == [f"{number}"]
    for seconds, is_past in ((0, True), (-62_135_596_800, True), (253_402_300_799, False)):
        limit = Timestamp(seconds=seconds)
        assert len(await found(client, created_after=limit)) == (5 if is_past else 0)
        assert len(await found(client, created_before=limit)) == (0 if is_past else 5)


async def test_keys_without_a_limit(service: Service) -> None:
    """A runtime key has no hats to be limited to, and a limit to no hat is a limit."""
    client = service.operator
    await client.issue(description="all")
    await client.issue(description="some", hat_limit={"hat_ids": ["engineer"]})
    await client.issue(description="none", hat_limit={})
    await client.issue(description="bob's", type=USER, user_id="bob")
    await client.issue(description="runtime", type=RUNTIME, runtime_id="r1")
    assert await found(client, unlimited=[HATS]) == ["bob's", "all"]
    assert await found(client, unlimited=[HATS], types=[USER, RUNTIME]) == ["bob's"]
    assert await found(client, unlimited=[HATS], types=[RUNTIME]) == []
    assert await found(client, unlimited=[HATS], runtime_ids=["r1"]) == []
    await client.issue(description="ends", lifetime=Duration(seconds=9_000), network_limit={"networks": ["10.0.0.0/8"]})
    networks, expiry = key_pb2.KEY_LIMIT_NETWORKS, key_pb2.KEY_LIMIT_EXPIRY
    # The platform gives a runtime key an expiry.
    assert await found(client, unlimited=[expiry]) == ["bob's", "none", "some", "all"]
    assert await found(client, unlimited=[networks]) == ["runtime", "bob's", "none", "some", "all"]
    assert await found(client, unlimited=[HATS, networks]) == ["ends", "runtime", "bob's", "none", "some", "all"]
    assert await found(client, unlimited=[expiry, networks], types=[RUNTIME]) == ["runtime"]


@pytest.mark.parametrize(
    ("wanted", "field", "words"),
    [
        ({"runtime_ids": ["r", ""]}, "filter.runtime_ids[1]", "is required"),
        ({"runtime_ids": [f"r{at}" for at in range(101)]}, "filter.runtime_ids", "at most 100 are allowed"),
        ({"created_by": {}}, "filter.created_by.kind", "is required"),
        ({"created_by": {"kind": 1}}, "filter.created_by.id", "is required"),
        ({"family_id": "0198C2F4-7c3e-7a10-8f5e-3b1d2c4a5e6f"}, "filter.family_id", "is not a key id"),
        ({"family_id": f"WSK_{'0' * 71}"}, "filter.family_id", "is '…', which is not a key id"),
        ({"hint": "WSK_012345678"}, "filter.hint", "is not a hint"),
        ({"hint": f"WSK_{'0' * 71}"}, "filter.hint", "is '…', which is not a hint"),
        ({"text": " "}, "filter.text", "has no word"),
        ({"text": "🤖"}, "filter.text", "has no word"),
        ({"text": "-_- !"}, "filter.text", "has no word"),
        ({"text": "x" * 201}, "filter.text", "at most 200 are allowed"),
        ({"text": f"WSK_{'0' * 71}"}, "filter.text", "contains a token"),
        ({"labels": ["team", "a b"]}, "filter.labels[1]", "its name has to be"),
        ({"labels": [""]}, "filter.labels[0]", "its name has to be"),
        ({"labels": [f"l{at}" for at in range(101)]}, "filter.labels", "at most 100 are allowed"),
        ({"created_after": Timestamp(nanos=-1)}, "filter.created_after", "is not a time"),
        ({"created_before": Timestamp(seconds=2**60)}, "filter.created_before", "is not a time"),
        ({"unlimited": [0]}, "filter.unlimited[0]", "is required"),
        ({"violating": [key_pb2.POLICY_RULE_MAX_LIFETIME, 0]}, "filter.violating[1]", "is required"),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_bad_filter_is_refused(service: Service, wanted: dict[str, Any], field: str, words: str) -> None:
    """By its field. Left out, it would find more."""
    for asked in (list_keys, count_keys):
        refused = await refusal(asked(service.operator, filter=wanted))
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert words in refused.fields[field]


async def test_a_label_is_kept_and_returned(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """By IssueKey, GetKey and lists. A retry has to have the same labels."""
    labels = {"team": "support", "example.com/env": ""}
    issued = (await service.operator.issue(labels=labels, request_id="r1")).key
    assert dict(issued.labels) == labels
    assert await sql.fetchval("SELECT labels FROM key") == '{"team": "support", "example.com/env": ""}'
    again = (await service.operator.issue(labels=dict(reversed(labels.items())), request_id="r1")).key
    assert again == issued
    for other in ({}, {"team": "support"}, labels | {"more": ""}, labels | {"team": "sales"}):
        refused = await refusal(service.operator.issue(labels=other, request_id="r1"))
        assert list(refused.fields) == ["request_id"]
    refused = await refusal(service.operator.issue(labels={f"l{at}": "" for at in range(17)}))
    assert refused.fields == {"labels": "has 17 elements; at most 16 are allowed"}


async def test_by_last_use_the_longest_unused_comes_first(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Never used keys by their issue. Keys of a day are in order too, and equal times in order of id."""
    day = datetime(2026, 3, 1, tzinfo=UTC)
    uses = [day + timedelta(hours=hours) for hours in (0, 1, 23, 23, 24, 24 * 30, 24 * 30 + 1)]
    ids = []
    for index in (3, 0, 5, 6, 1, 4, 2):
        columns = {"last_used_at": uses[index]} if index % 2 else {"created_at": uses[index]}
        ids.append((uses[index], await insert_key(sql, **columns)))
    await insert_key(sql, created_at=day - timedelta(days=9), last_used_at=day + timedelta(days=60))
    expected = [str(key_id) for _, key_id in sorted(ids)]
    listed: list[str] = []
    token = ""
    for _ in range(8):
        page = await list_keys(
            service.operator, order_by="KEY_ORDER_LEAST_RECENTLY_USED", page_size=1, page_token=token
        )
        listed += [key.id for key in page.keys]
        token = page.next_page_token
    assert (listed[:-1], len(listed), token) == (expected, 8, "")
    since = at(uses[4])
    page = await list_keys(service.operator, order_by="KEY_ORDER_LEAST_RECENTLY_USED", filter={"unused_since": since})
    assert [key.id for key in page.keys] == expected[:4]
    # A use moves a key to the end, and so does one on record that was too late and is corrected.
    await sql.execute("UPDATE key SET last_used_at = now() WHERE id = $1", ids[1][1])
    page = await list_keys(service.operator, order_by="KEY_ORDER_LEAST_RECENTLY_USED")
    assert page.keys[-1].id == str(ids[1][1])
    await sql.execute("UPDATE key SET last_used_at = $2 WHERE id = $1", ids[1][1], day - timedelta(days=1))
    page = await list_keys(service.operator, order_by="KEY_ORDER_LEAST_RECENTLY_USED")
    assert page.keys[0].id == str(ids[1][1])


async def test_keys_from_before_there_was_a_day_of_use_come_in_order(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """Their day is minus infinity, until they are used."""
    day = datetime(2026, 3, 1, tzinfo=UTC)
    await sql.execute("ALTER TABLE key DISABLE TRIGGER key_used_on")
    old = [await insert_key(sql, last_used_at=day + timedelta(days=days)) for days in (5, 3, 4)]
    await sql.execute("UPDATE key SET used_on = '-infinity'")
    await sql.execute("ALTER TABLE key ENABLE ALWAYS TRIGGER key_used_on")
    new = await insert_key(sql)
    listed: list[str] = []
    token = ""
    for _ in range(4):
        page = await list_keys(
            service.operator, order_by="KEY_ORDER_LEAST_RECENTLY_USED", page_size=1, page_token=token
        )
        listed += [key.id for key in page.keys]
        token = page.next_page_token
    assert (listed, token) == ([str(each) for each in (old[1], old[2], old[0], new)], "")
    assert await found(service.operator, unused_since=at(day + timedelta(days=4, hours=1))) == ["Slack Support Bot"] * 2


async def test_a_page_token_is_bound_to_the_order(service: Service) -> None:
    """The orders have different positions."""
    for _ in range(3):
        await service.operator.issue()
    newest = await list_keys(service.operator, page_size=1)
    by_use = await list_keys(service.operator, page_size=1, order_by="KEY_ORDER_LEAST_RECENTLY_USED")
    attempts = ((newest, "KEY_ORDER_LEAST_RECENTLY_USED"), (by_use, "KEY_ORDER_NEWEST"), (by_use, None))
    for page, order in attempts:
        refused = await refusal(list_keys(service.operator, page_token=page.next_page_token, order_by=order))
        assert list(refused.fields) == ["page_token"]
    same = await list_keys(service.operator, page_token=newest.next_page_token, order_by="KEY_ORDER_NEWEST")
    assert len(same.keys) == 2


async def test_keys_by_expiry(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """At or after one time, before another. A key that does not expire never matches, and comes last in the order."""
    now = datetime.now(UTC)
    for days in (5, 1, 400, 3):
        lifetime = Duration(seconds=days * 86_400)
        await service.operator.issue(description=f"in {days}", lifetime=lifetime, labels={"env": "live"})
    old = {"created_at": now - timedelta(days=50), "secret_hash": None, "guarded_hash": NO_HASH}
    for days in (2, 9):
        await insert_key(sql, description=f"{days} ago", expires_at=now - timedelta(days=days), **old)
    for _ in range(2):
        await service.operator.issue(description="never")
    client = service.operator

    async def by_expiry(**wanted: Any) -> list[str]:
        page = await list_keys(client, filter=wanted, order_by="KEY_ORDER_EXPIRES_NEXT")
        return [key.description for key in page.keys]

    whole = ["9 ago", "2 ago", "in 1", "in 3", "in 5", "in 400", "never", "never"]
    assert await by_expiry() == whole
    week = at(now + timedelta(days=7))
    assert await by_expiry(expires_before=week) == whole[:5]
    assert await by_expiry(expires_after=at(now), expires_before=week) == whole[2:5]
    assert await by_expiry(expires_after=week) == ["in 400"]
    assert await by_expiry(expires_after=at(now), labels=["env"]) == whole[2:6]
    assert await by_expiry(states=[key_pb2.KEY_STATE_ACTIVE]) == whole[2:]
    assert await by_expiry(states=[key_pb2.KEY_STATE_EXPIRED]) == whole[:2]
    assert await by_expiry(types=[key_pb2.KEY_TYPE_USER]) == []
    assert await found(client, expires_before=week) == ["9 ago", "2 ago", "in 3", "in 1", "in 5"]
    assert await found(client, expires_after=at(now), unused_since=week) == ["in 3", "in 400", "in 1", "in 5"]
    assert await found(client, expires_after=at(now), created_by=caller("operator"), expires_before=week) == [
        "in 3",
        "in 1",
        "in 5",
    ]
    assert await found(client, states=[key_pb2.KEY_STATE_EXPIRED], expires_before=week) == ["9 ago", "2 ago"]
    exactly = (await list_keys(client, filter={"text": "400"})).keys[0].expires_at
    assert await found(client, expires_after=exactly) == ["in 400"]
    assert await found(client, expires_after=exactly, expires_before=exactly) == []
    assert await found(client, expires_after=Timestamp(seconds=253_402_300_799, nanos=999_999_999)) == []


async def test_keys_of_a_family(service: Service) -> None:
    """The first key and its successors, of this workspace only."""
    client = service.operator
    first = (await client.issue(description="bot", labels={"env": "live"})).key
    await client.issue(description="other bot")
    second = (await client.keys.RotateKey(key_service_pb2.RotateKeyRequest(key_id=first.id))).key
    assert second.family_id == first.family_id == first.id
    assert await found(client, family_id=first.id) == ["bot", "bot"]
    assert await found(client, family_id=first.id, created_before=second.created_at) == ["bot"]
    assert await found(client, family_id=first.id, text="bot", labels=["env"]) == ["bot", "bot"]
    assert await found(client, family_id=first.id, text="other") == []
    assert await found(client, family_id=first.id, types=[USER]) == []
    assert await found(client, family_id=second.id) == ["bot"]
    assert await found(client, family_id="0198c2f4-7c3e-7a10-8f5e-3b1d2c4a5e6f") == []
    await service.operator.apply(small_workspace("other"))
    page = await list_keys(client, workspace_id="other", filter={"family_id": first.id})
    assert not page.keys

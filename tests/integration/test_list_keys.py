"""ListKeys and ListWorkspaces: what is listed, in what order, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from tests.support.calls import count_keys, delete_workspace, get_key, list_keys, list_workspaces
from tests.support.rows import insert_key
from tests.support.service import Client, Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from skilder.keys.v1 import key_service_pb2

pytestmark = GRPCIO_IF_SHORT

USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER}
NOT_OURS = {"page_token": "is not the next_page_token of a call with the same filter and actor"}


def ids(page: key_service_pb2.ListKeysResponse) -> list[str]:
    """Return the ids of a page of keys."""
    return [key.id for key in page.keys]


async def pages(client: Client, **fields: Any) -> list[list[str]]:
    """Return the ids of all pages, to the last."""
    found = [await list_keys(client, **fields)]
    while found[-1].next_page_token:
        found.append(await list_keys(client, **fields, page_token=found[-1].next_page_token))
    return [ids(page) for page in found]


async def issue(service: Service, count: int, **fields: Any) -> list[str]:
    """Issue keys one after another and return their ids, newest first."""
    return [(await service.operator.issue(**fields)).key.id for _ in range(count)][::-1]


async def test_keys_are_listed_newest_first_and_in_full(service: Service) -> None:
    """Each as GetKey returns it, including used, limited and revoked keys. An empty workspace has an empty page."""
    assert await list_keys(service.operator) == await list_keys(service.operator, page_size=1)
    first = await service.operator.issue(hat_limit={"hat_ids": ["everyone", "engineer"]})
    second = await service.console.issue(**USER, user_id="bob", actor="bob")
    third = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    await service.service.authorize(first.token)
    await service.operator.revoke(key_id=second.key.id, reason="Not needed")
    page = await list_keys(service.operator)
    assert list(page.keys) == [await get_key(service.operator, each.key.id) for each in (third, second, first)]
    assert page.next_page_token == ""


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (9, [9]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (25, [10, 10, 5])]
)
async def test_pages_hold_each_key_once(service: Service, count: int, sizes: list[int]) -> None:
    """In order, and without a token on the last page, even if that page is full."""
    await service.operator.apply(small_workspace("globex"))
    await issue(service, 3, workspace_id="globex")
    issued = await issue(service, count)
    found = await pages(service.operator, page_size=10)
    assert [len(page) for page in found] == sizes
    assert [key_id for page in found for key_id in page] == issued


async def test_keys_issued_while_paging_shift_no_page(service: Service) -> None:
    """A page starts below the last key of the page before, whatever was issued or revoked meanwhile."""
    issued = await issue(service, 6)
    first = await list_keys(service.operator, page_size=2)
    await issue(service, 3)
    await service.operator.revoke(key_id=issued[1])
    second = await list_keys(service.operator, page_size=2, page_token=first.next_page_token)
    await issue(service, 3)
    third = await list_keys(service.operator, page_size=3, page_token=second.next_page_token)
    assert ids(first) + ids(second) + ids(third) == issued


async def test_a_page_has_100_keys_by_default(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """And 1,000 at most, however many are asked for; a negative size is refused by its field."""
    for _ in range(101):
        await insert_key(sql)
    assert len((await list_keys(service.operator)).keys) == 100
    assert len((await list_keys(service.operator, page_size=0)).keys) == 100
    assert len((await list_keys(service.operator, page_size=1000)).keys) == 101
    for size in (1001, 2**31 - 1):
        assert len((await list_keys(service.operator, page_size=size)).keys) == 101
    for size in (-1, -(2**31)):
        for asked in (list_keys(service.operator, page_size=size), list_workspaces(service.operator, page_size=size)):
            refused = await refusal(asked)
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert refused.fields == {"page_size": f"is {size}; a size is 0 for 100, or 1 or more"}


async def test_filters_choose_keys(service: Service) -> None:
    """By type, user and state, each alone and combined, with one value or several, also across pages."""
    shared = await issue(service, 2)
    bobs = await issue(service, 3, **USER, user_id="bob")
    cyds = await issue(service, 2, **USER, user_id="cyd")
    runtime = await issue(service, 1, type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    for revoked in (shared[0], bobs[1], cyds[0]):
        await service.operator.revoke(key_id=revoked)
    users = {"types": [key_pb2.KEY_TYPE_USER]}
    active, gone = {"states": [key_pb2.KEY_STATE_ACTIVE]}, {"states": [key_pb2.KEY_STATE_REVOKED]}
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [*runtime, *cyds, *bobs, *shared]),
        ({"types": [key_pb2.KEY_TYPE_WORKSPACE]}, shared),
        (users, cyds + bobs),
        ({"types": [key_pb2.KEY_TYPE_RUNTIME]}, runtime),
        ({"types": [key_pb2.KEY_TYPE_WORKSPACE, key_pb2.KEY_TYPE_RUNTIME]}, runtime + shared),
        ({"types": [key_pb2.KEY_TYPE_WORKSPACE] * 2}, shared),
        ({"user_ids": ["bob"]}, bobs),
        ({"user_ids": ["bob", "cyd", "nobody"]}, cyds + bobs),
        ({"user_ids": ["nobody"]}, []),
        (active, [*runtime, cyds[1], bobs[0], bobs[2], shared[1]]),
        (gone, [cyds[0], bobs[1], shared[0]]),
        ({"states": [*active["states"], *gone["states"]]}, [*runtime, *cyds, *bobs, *shared]),
        (users | active | {"user_ids": ["bob"]}, [bobs[0], bobs[2]]),
        (users | gone, [cyds[0], bobs[1]]),
        (gone | {"user_ids": ["cyd", "bob"]}, [cyds[0], bobs[1]]),
        ({"types": [key_pb2.KEY_TYPE_RUNTIME], "user_ids": ["bob"]}, []),
        ({"types": [key_pb2.KEY_TYPE_RUNTIME, key_pb2.KEY_TYPE_USER], "user_ids": ["bob"]}, bobs),
    ]
    for wanted, found in expected:
        assert ids(await list_keys(service.operator, filter=wanted)) == found, wanted
        in_pages = await pages(service.operator, page_size=1, filter=wanted)
        assert [id_ for page in in_pages for id_ in page] == found, wanted


async def test_keys_unused_since_a_time_are_found(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Last used before it or, if never used, issued before it. A key used or issued at exactly that time is not."""
    moment = datetime(2025, 6, 1, 12, tzinfo=UTC)
    early, late = moment - timedelta(microseconds=1), moment + timedelta(microseconds=1)
    old = moment - timedelta(days=300)
    rows: dict[str, dict[str, Any]] = {
        "never used, old": {"created_at": old},
        "never used, issued just before": {"created_at": early},
        "never used, issued then": {"created_at": moment},
        "used before": {"created_at": old, "last_used_at": early},
        "used then": {"created_at": old, "last_used_at": moment},
        "used after": {"created_at": old, "last_used_at": late},
    }
    for description, row in rows.items():
        await insert_key(sql, description=description, **row)
    since = Timestamp()
    since.FromDatetime(moment)
    page = await list_keys(service.operator, filter={"unused_since": since})
    assert [key.description for key in page.keys] == [
        "used before",
        "never used, issued just before",
        "never used, old",
    ]


async def test_a_time_out_of_range_is_refused(service: Service) -> None:
    """Only the years 1 to 9999 with valid nanoseconds are times."""
    for since in (
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ):
        refused = await refusal(list_keys(service.operator, filter={"unused_since": since}))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refused.fields) == ["filter.unused_since"], since
    for since in (Timestamp(seconds=253_402_300_799, nanos=999_999_999), Timestamp(seconds=-62_135_596_800)):
        assert ids(await list_keys(service.operator, filter={"unused_since": since})) == []


async def test_a_page_token_is_valid_with_the_same_filter_and_actor_only(service: Service) -> None:
    """With another one, or another workspace, it is refused, and so are a changed token and one of ListWorkspaces."""
    await service.operator.apply(small_workspace("globex"))
    await issue(service, 3, **USER, user_id="bob")
    some: dict[str, Any] = {"types": [key_pb2.KEY_TYPE_USER], "user_ids": ["bob", "cyd"]}
    token = (await list_keys(service.operator, page_size=1, filter=some, actor="bob")).next_page_token
    workspaces_token = (await list_workspaces(service.operator, page_size=1)).next_page_token
    assert token
    assert workspaces_token
    changed = ("A" if token[0] != "A" else "B") + token[1:]
    same = {"filter": some, "actor": "bob", "page_token": token}
    attempts: list[dict[str, Any]] = [
        same | {"filter": some | {"user_ids": ["bob"]}},
        same | {"filter": some | {"user_ids": []}},
        same | {"filter": some | {"types": []}},
        same | {"filter": some | {"states": [key_pb2.KEY_STATE_REVOKED]}},
        same | {"filter": some | {"unused_since": Timestamp(seconds=1)}},
        same | {"filter": {}},
        same | {"workspace_id": "globex"},
        same | {"actor": ""},
        same | {"actor": "ada"},
        *(same | {"page_token": bad} for bad in (changed, token + "=", token[:-1], f"{token}\n", "x", "\x00", "é")),
        same | {"page_token": "x" * 60_000},
        same | {"page_token": workspaces_token},
    ]
    for attempt in attempts:
        refused = await refusal(list_keys(service.operator, **attempt))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refused.fields == NOT_OURS, attempt
    assert (await refusal(list_workspaces(service.operator, page_token=token))).fields == NOT_OURS
    # The page size may change, the caller too, and the order of values does not matter.
    again = same | {"filter": some | {"user_ids": ["cyd", "bob"]}}
    assert len((await list_keys(service.console, **again, page_size=7)).keys) == 2


@pytest.mark.parametrize(
    ("actor", "wanted", "seen"),
    [
        ("ada", {}, {"shared", "bob", "cyd", "runtime"}),
        ("ada", {"user_ids": ["bob"]}, {"bob"}),
        ("bob", {}, {"bob"}),
        ("bob", {"types": [key_pb2.KEY_TYPE_WORKSPACE, key_pb2.KEY_TYPE_USER]}, {"bob"}),
        ("bob", {"types": [key_pb2.KEY_TYPE_WORKSPACE]}, set()),
        ("bob", {"user_ids": ["bob"]}, {"bob"}),
        ("bob", {"user_ids": ["bob", "cyd"]}, {"bob"}),
        ("bob", {"user_ids": ["cyd"]}, set()),
        ("bob", {"states": [key_pb2.KEY_STATE_REVOKED]}, set()),
        ("cyd", {}, {"cyd"}),
    ],
)
async def test_who_sees_which_keys(service: Service, actor: str, wanted: dict[str, Any], seen: set[str]) -> None:
    """Admins any keys, members their own user keys: lists and counts are narrowed to them, without an error."""
    await service.operator.issue(description="shared")
    await service.operator.issue(description="runtime", type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    for user_id in ("bob", "cyd"):
        await service.operator.issue(description=user_id, **USER, user_id=user_id)
    found = await list_keys(service.console, filter=wanted, actor=actor)
    assert {key.description for key in found.keys} == seen
    assert len(found.keys) == len(seen)
    counted = await count_keys(service.console, filter=wanted, actor=actor)
    assert sum(each.count for each in counted.counts) == len(seen)


async def test_who_is_no_member_sees_no_keys(service: Service) -> None:
    """`dan` is not in the workspace, and gets an error also if he would see none."""
    for wanted in ({}, {"user_ids": ["dan"]}):
        for asked in (list_keys, count_keys):
            refused = await refusal(asked(service.console, filter=wanted, actor="dan"))
            assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_MEMBER")


async def test_a_bad_value_of_a_filter_is_refused_by_its_place(service: Service) -> None:
    """Values without a meaning are not left out: then more keys would be listed."""
    bad: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"types": [key_pb2.KEY_TYPE_USER, 0]}, {"filter.types[1]": "is required"}),
        ({"states": [0]}, {"filter.states[0]": "is required"}),
        ({"user_ids": ["bob", ""]}, {"filter.user_ids[1]": "is required"}),
        (
            {"user_ids": [f"u{number}" for number in range(101)]},
            {"filter.user_ids": "has 101 elements; at most 100 are allowed"},
        ),
        (
            {"states": [key_pb2.KEY_STATE_ACTIVE] * 101},
            {"filter.states": "has 101 elements; at most 100 are allowed"},
        ),
    ]
    for wanted, fields in bad:
        for asked in (list_keys, count_keys):
            refused = await refusal(asked(service.operator, filter=wanted))
            assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields), wanted


async def test_the_keys_of_a_deleted_workspace_are_still_listed(service: Service) -> None:
    """Without an actor, since it has no members. A workspace that never existed is not found."""
    issued = await issue(service, 2)
    await delete_workspace(service.operator)
    assert ids(await list_keys(service.operator)) == issued
    gone = await refusal(list_keys(service.console, actor="ada"))
    assert (gone.code, gone.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_MEMBER")
    for actor in ("", "ada"):
        unknown = await refusal(list_keys(service.operator, workspace_id="nowhere", actor=actor))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")


async def test_workspaces_are_listed_page_by_page_in_order_of_id(empty_service: Service) -> None:
    """Each once, in byte order of the ids; deleted ones are left out."""
    assert list((await list_workspaces(empty_service.operator)).workspaces) == []
    names = ["a", "B", "a-b", "a.b", "A", "b", "10", "9", "a_b"]
    for name in [*names, "gone"]:
        await empty_service.operator.apply(small_workspace(name))
    await delete_workspace(empty_service.operator, "gone")
    found = []
    token = ""
    for size in (3, 3, 3):
        page = await list_workspaces(empty_service.operator, page_size=3, page_token=token)
        assert len(page.workspaces) == size
        found += [(each.id, each.name, each.version) for each in page.workspaces]
        token = page.next_page_token
    assert token == ""
    assert found == [(name, "Acme", 1) for name in sorted(names)]

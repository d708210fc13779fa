"""What all methods that list have in common: sizes of pages, page tokens, and what an actor may see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1.catalog_service_pb2 import (
    ListHatsRequest,
    ListMembersRequest,
    ListToolsRequest,
    ListWorkspacesRequest,
)
from skilder.keys.v1.key_pb2 import KEY_LIMIT_HATS, KEY_TYPE_USER, KEY_TYPE_WORKSPACE
from skilder.keys.v1.key_service_pb2 import KeyFilter, ListKeysRequest
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN
from tests.support.calls import METHODS, id_of
from tests.support.rows import insert_key
from tests.support.service import refusal
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.support.service import Client, Service

COUNT = 1101
LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Listing:
    """A method that lists.

    Attributes:
        request: A request that lists everything.
        fill: Makes COUNT elements, on request as large as is allowed.
        others: For each field that chooses what is listed, another value.
        seen: How many elements each actor sees; None for who is refused. Without an actor, all are seen.
    """

    request: Any
    fill: Callable[..., Awaitable[None]]
    others: dict[str, Any]
    seen: dict[str, int | None]


_COPIES = """
INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
SELECT gen_random_uuid(), type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id
FROM key, generate_series(1, $2) WHERE id = $1
"""
_WIDE = "\N{ROBOT FACE}"
# The trigger would note each row for the fence.
_LIMITS = """
ALTER TABLE key_hat DISABLE TRIGGER key_hat_change;
INSERT INTO key_hat SELECT workspace_id, id, rpad('hat' || number, 64, 'x') FROM key, generate_series(1, 100) AS number
WHERE limited_to_hats;
ALTER TABLE key_hat ENABLE ALWAYS TRIGGER key_hat_change;
"""


async def _fill_keys(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    await service.operator.apply(small_workspace())
    await service.operator.apply(small_workspace("other"))
    for _ in range(3):
        await service.operator.issue(type=KEY_TYPE_USER, user_id="bob", unlimited=[KEY_LIMIT_HATS])
    fields: dict[str, Any] = {"description": _WIDE * 200, "created_by_id": _WIDE * 255, "limited_to_hats": True}
    first = await insert_key(sql, **fields if large else {})
    await sql.execute(_COPIES, first, COUNT - 4)
    if large:
        await sql.execute(_LIMITS)


async def _fill_workspaces(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    for name in ("acme", "other"):
        await service.operator.apply(small_workspace(name))
    await sql.execute(
        """
        INSERT INTO workspace (id, name, version)
        SELECT 'w' || lpad(n::text, 4, '0'), $2, 1 FROM generate_series(0, $1 - 1) AS n
        """,
        COUNT - 2,
        _WIDE * 128 if large else "W",
    )


# $1 is the number of the last element. With $2, elements are so large that a page ends early.
_PARTS = {
    "members": """
        INSERT INTO member
        SELECT 'acme', 'm' || lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END, 'viewer'
        FROM generate_series(4, $1::int) AS n
    """,
    "hats": """
        INSERT INTO hat SELECT 'acme', 'h' || lpad(n::text, 4, '0'), repeat('🤖', CASE WHEN $2 THEN 128 ELSE 1 END),
                               repeat('🤖', CASE WHEN $2 THEN 500 ELSE 0 END), '', 'workspace'
        FROM generate_series(5, $1::int) AS n
    """,
    "tools": """
        INSERT INTO tool
        SELECT 'acme', 't' || lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END,
               lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END,
               repeat('🤖', CASE WHEN $2 THEN 255 ELSE 1 END), true
        FROM generate_series(6, $1::int) AS n
    """,
}
_SKILLS = """
INSERT INTO skill SELECT 'acme', lpad(n::text, 64, 's'), 'S', '' FROM generate_series(1, 20) AS n;
INSERT INTO hat_skill SELECT 'acme', hat.id, skill.id FROM hat, skill
WHERE skill.id LIKE 'ss%' AND hat.workspace_id = 'acme';
INSERT INTO team SELECT 'acme', lpad(n::text, 64, 't'), 'T' FROM generate_series(1, 45) AS n;
INSERT INTO team_member SELECT 'acme', team.id, user_id FROM member, team
WHERE team.id LIKE 'tt%' AND member.workspace_id = 'acme';
"""


def _fill_parts(parts: str) -> Callable[..., Awaitable[None]]:
    async def fill(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
        for name in ("acme", "other"):
            await service.operator.apply(small_workspace(name))
        await sql.execute(_PARTS[parts], COUNT, large)
        if large:
            await sql.execute(_SKILLS)

    return fill


def _list_of_parts(kind: Any, parts: str, **others: Any) -> Listing:
    others |= {"workspace_id": "other", "actor": "ada", "text": "s"}
    # Whoever may see the workspace sees all of it.
    seen = {"ada": COUNT, "bob": COUNT, "cyd": COUNT, "nobody": None}
    return Listing(kind(workspace_id="acme"), _fill_parts(parts), others, seen)


LISTS = {
    "KeyService/ListKeys": Listing(
        ListKeysRequest(workspace_id="acme"),
        _fill_keys,
        {"workspace_id": "other", "actor": "ada", "filter": KeyFilter(types=[KEY_TYPE_WORKSPACE])},
        {"ada": COUNT, "bob": 3, "cyd": 0, "nobody": None},
    ),
    "CatalogService/ListWorkspaces": Listing(
        ListWorkspacesRequest(),
        _fill_workspaces,
        {"actor": "ada", "user_id": "ada", "show_deleted": True},
        {"ada": 2, "bob": 2, "nobody": 0},
    ),
    "CatalogService/ListMembers": _list_of_parts(
        ListMembersRequest, "members", team_id="support", role=MEMBER_ROLE_ADMIN
    ),
    "CatalogService/ListHats": _list_of_parts(ListHatsRequest, "hats", user_id="ada"),
    "CatalogService/ListTools": _list_of_parts(ListToolsRequest, "tools", mcp_server="web", skill_id="search"),
}
METHOD = pytest.mark.parametrize("method", LISTS)


def request(method: str, **fields: Any) -> Any:
    """Return the request that lists everything, with other fields."""
    made = type(LISTS[method].request)()
    made.CopyFrom(LISTS[method].request)
    made.MergeFrom(type(made)(**fields))
    if "workspace_id" in fields:
        made.workspace_id = fields["workspace_id"]
    return made


async def page(client: Client, method: str, **fields: Any) -> tuple[list[str], str]:
    """Return the ids on a page, and the token of the next."""
    stub = client.keys if method.startswith("KeyService") else client.catalog
    response = await getattr(stub, method.partition("/")[2])(request(method, **fields))
    first, *_ = response.DESCRIPTOR.fields
    return [id_of(each) for each in getattr(response, first.name)], response.next_page_token


async def pages(client: Client, method: str, **fields: Any) -> list[list[str]]:
    """Return the ids on each page."""
    found: list[list[str]] = []
    token = ""
    while not found or token:
        ids, token = await page(client, method, page_token=token, **fields)
        found.append(ids)
    return found


def test_every_list_is_tested() -> None:
    """Each method with pages has an entry in LISTS, with another value for each field that is no page."""
    paged = {method for method, each in METHODS.items() if "page_token" in each.input_type.fields_by_name}
    assert set(LISTS) == paged
    for method, listing in LISTS.items():
        fields = set(METHODS[method].input_type.fields_by_name)
        assert set(listing.others) == fields - {"page_size", "page_token"}, method


@ONLY_GRPCIO
@METHOD
async def test_pages_have_the_size_that_was_asked_for(
    empty_service: Service, sql: asyncpg.Connection[Any], method: str
) -> None:
    """0 is 100, and more than 1,000 is 1,000; a negative size is refused. Each element is on one page, in one order."""
    await LISTS[method].fill(empty_service, sql)
    client = empty_service.operator
    sizes = {0: 100, 1: 1, LARGEST_PAGE: LARGEST_PAGE, LARGEST_PAGE + 1: LARGEST_PAGE, 2**31 - 1: LARGEST_PAGE}
    for asked, size in sizes.items():
        ids, token = await page(client, method, page_size=asked)
        assert len(ids) == size
        assert token
    refused = await refusal(page(client, method, page_size=-1))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_size"])
    by_page = await pages(client, method, page_size=400)
    ids = [each for ids in by_page for each in ids]
    assert len(set(ids)) == len(ids) == COUNT
    assert ids == [each for ids in await pages(client, method, page_size=LARGEST_PAGE) for each in ids]


@ONLY_GRPCIO
@METHOD
async def test_a_page_ends_early_if_its_elements_are_large(
    empty_service: Service, sql: asyncpg.Connection[Any], method: str
) -> None:
    """A client with the default limit of 4 MiB gets all elements, though not as many on a page as it asked for."""
    await LISTS[method].fill(empty_service, sql, large=True)
    by_page = await pages(empty_service.operator, method, page_size=LARGEST_PAGE)
    ids = [each for ids in by_page for each in ids]
    assert len(set(ids)) == len(ids) == COUNT
    stub = empty_service.operator.keys if method.startswith("KeyService") else empty_service.operator.catalog
    response = await getattr(stub, method.partition("/")[2])(request(method, page_size=LARGEST_PAGE))
    assert response.ByteSize() < 3 * 2**20 + 2**10
    if method not in {"CatalogService/ListWorkspaces", "CatalogService/ListTools"}:
        assert len(by_page[0]) < LARGEST_PAGE


@ONLY_GRPCIO
@METHOD
async def test_a_page_token_is_good_for_one_listing(
    empty_service: Service, sql: asyncpg.Connection[Any], method: str
) -> None:
    """With another size, but with no other method, filter or actor. It is opaque, and authorizes nothing."""
    await LISTS[method].fill(empty_service, sql)
    client = empty_service.operator
    ids, token = await page(client, method, page_size=2)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert not any(id_ in token for id_ in ids if len(id_) > len("ada"))
    following, _ = await page(client, method, page_size=1, page_token=token)
    assert following[0] not in ids
    changed = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
    wrong = [{"page_token": changed}, {"page_token": token[1:]}]
    wrong += [{"page_token": token, name: value} for name, value in LISTS[method].others.items()]
    for fields in wrong:
        refused = await refusal(page(client, method, **fields))
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"]), fields
    for other in LISTS.keys() - {method}:
        refused = await refusal(page(client, other, page_token=token))
        assert list(refused.fields) == ["page_token"]
    refused = await refusal(page(empty_service.service, method, page_token=token))
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED


@ONLY_GRPCIO
@METHOD
async def test_a_list_has_what_its_actor_may_see(
    empty_service: Service, sql: asyncpg.Connection[Any], method: str
) -> None:
    """A member's list narrows to their own; somebody without a right is refused, or sees nothing."""
    await LISTS[method].fill(empty_service, sql)
    everything = {each for ids in await pages(empty_service.operator, method, page_size=1000) for each in ids}
    assert len(everything) == COUNT
    for actor, count in LISTS[method].seen.items():
        if count is None:
            refused = await refusal(page(empty_service.console, method, actor=actor))
            assert refused.code is grpc.StatusCode.PERMISSION_DENIED
            continue
        seen = [each for ids in await pages(empty_service.console, method, page_size=1000, actor=actor) for each in ids]
        assert (len(seen), set(seen) <= everything) == (count, True), actor

"""What all methods that list have in common: sizes of pages, page tokens, and what an actor may see."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.calls import METHODS, id_of
from tests.support.lengths import by_form
from tests.support.lists import COUNT, LISTS
from tests.support.service import refusal
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

LARGEST_PAGE = 1000
METHOD = pytest.mark.parametrize("method", LISTS)
SOME = pytest.mark.parametrize("method", by_form(list(LISTS)[::2], list(LISTS)))
OTHERS = pytest.mark.parametrize("method", by_form(list(LISTS)[1::2], list(LISTS)))
"""The short form checks page tokens with half of the methods, and what an actor may see with the other half."""


def request(method: str, **fields: Any) -> Any:
    """Return the request that lists everything, with other fields."""
    made = type(LISTS[method].request)()
    made.CopyFrom(LISTS[method].request)
    made.MergeFrom(type(made)(**fields))
    if "workspace_id" in fields:
        made.workspace_id = fields["workspace_id"]
    return made


async def send(client: Client, method: str, message: Any) -> Any:
    """Return the response to a request."""
    service, _, name = method.partition("/")
    stubs = {
        "KeyService": client.keys,
        "CatalogService": client.catalog,
        "ActivityService": client.activity,
        "AuditService": client.audit,
    }
    return await getattr(stubs[service], name)(message)


async def page(client: Client, method: str, **fields: Any) -> tuple[list[str], str]:
    """Return the ids on a page, and the token of the next."""
    response = await send(client, method, request(method, **fields))
    elements = LISTS[method].elements or response.DESCRIPTOR.fields[0].name
    return [id_of(each) for each in getattr(response, elements)], response.next_page_token


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
        tested = listing.others.keys() | listing.unbound.keys() | listing.apart
        assert tested == fields - {"page_size", "page_token"}, method


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
@pytest.mark.parametrize("method", by_form(["KeyService/ListKeys"], list(LISTS)))
async def test_a_page_ends_early_if_its_elements_are_large(
    empty_service: Service, sql: asyncpg.Connection[Any], method: str
) -> None:
    """A client with the default limit of 4 MiB gets all elements, though not as many on a page as it asked for."""
    await LISTS[method].fill(empty_service, sql, large=True)
    by_page = await pages(empty_service.operator, method, page_size=LARGEST_PAGE)
    ids = [each for ids in by_page for each in ids]
    assert len(set(ids)) == len(ids) == COUNT
    response = await send(empty_service.operator, method, request(method, page_size=LARGEST_PAGE))
    assert response.ByteSize() < 3 * 2**20 + 2**10
    if method not in {"CatalogService/ListWorkspaces", "CatalogService/ListTools", "ActivityService/ListActivity"}:
        assert len(by_page[0]) < LARGEST_PAGE


@ONLY_GRPCIO
@SOME
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
    for name, value in LISTS[method].unbound.items():
        assert (await page(client, method, page_size=1, page_token=token, **{name: value}))[0] == following
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
@OTHERS
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

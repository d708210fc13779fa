"""No call, however large, blocks the event loop.

The service runs in the event loop of the test, and its client in another process. The longest stall is compared with
the time that the same machine needs for a part of the work in one piece: on the loop, that would be a stall. Both are
CPU time of this process, all threads together, because other processes may keep the processor busy.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from functools import cache
from time import process_time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_service_pb2
from skilder.keys.v1.activity_service_pb2 import USAGE_GROUP_TOOL, GetUsageRequest
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest, DeleteWorkspaceRequest, GetWorkspaceRequest
from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.app.authorization.tool_set_encoder import ToolSetEncoder
from skilder_keys.app.authorization.tool_sets import Servers, SharedToolSet
from skilder_keys.app.page import Page
from skilder_keys.domain.denial import Denied
from skilder_keys.domain.ids import HatId, WorkspaceId
from skilder_keys.domain.paging import PageTokens
from skilder_keys.domain.permissions import Reach
from skilder_keys.domain.token import KeyType, Token, id_text
from skilder_keys.domain.tool_sets import ToolSetView, Variant
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.offload import Offload
from skilder_keys.rpc import convert, convert_workspaces
from tests.support.activity_facts import DAY, Fact, insert_facts
from tests.support.fleet import ORIGIN
from tests.support.garbage import collected_as_in_a_worker
from tests.support.ids import new_key_id
from tests.support.largest import largest_workspace
from tests.support.lengths import LONG, by_form
from tests.support.memory import TestedMemory, known_key, minted
from tests.support.plain_keys import plain_key
from tests.support.service import TOKENS, serving
from tests.support.snapshot_reads import contents_of
from tests.support.sql import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from google.protobuf.message import Message

    from skilder_keys.app.authorization.contents import Contents
    from skilder_keys.app.authorization.known_key import KnownKey

BASIC, FULL = ToolSetView.BASIC, ToolSetView.FULL
VARIANTS = [Variant(None, FULL), Variant("server", BASIC), Variant("server", FULL)]
_ATTEMPTS = 3
_PART = 10
"""A stall is less than the work in one piece, divided by this."""


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Turn off garbage collection, which takes long among the objects of the tests and is rare in a worker."""
    with collected_as_in_a_worker():
        yield


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Yield a list with one number: the longest time so far in which the loop did not run."""
    longest, last = [0.0], process_time()

    def note() -> None:
        nonlocal last
        now = process_time()
        longest[0] = max(longest[0], now - last)
        last = now

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.001)  # without a pause, it would slow down what it watches
            note()

    watching = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        note()
        watching.cancel()


def in_one_piece(body: bytes) -> float:
    """Return the seconds that it takes to parse, convert and check a workspace at once."""
    begin = process_time()
    checked(convert_workspaces.workspace(ApplyWorkspaceRequest.FromString(body).workspace))
    return process_time() - begin


class Calls:
    """Calls of a client in another process."""

    def __init__(self, client: asyncio.subprocess.Process, file: Path, piece: float) -> None:
        self._client = client
        self._file = file
        self._piece = piece

    async def hold_nobody_up(self, method: str, request: Callable[[int], Message]) -> None:
        """Fail if a call blocks the loop in every try. Other processes may cause a stall now and then."""
        longest = []
        for attempt in range(_ATTEMPTS):
            self._file.write_bytes(request(attempt).SerializeToString())
            assert self._client.stdin is not None
            assert self._client.stdout is not None
            async with watched() as stall:
                self._client.stdin.write(f"{method} {self._file}\n".encode())
                reported = await self._client.stdout.readline()
            assert reported.startswith(b"OK "), reported
            longest.append(stall[0])
            if longest[-1] < self._piece / _PART:
                return
        raise AssertionError(f"{method}: stalls of {longest} s, and the work in one piece takes {self._piece} s")


_COPY = """
INSERT INTO activity_minute (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms)
SELECT at - n, workspace, key, tool, caller, outcome, count, first_ms, last_ms
FROM activity_minute, generate_series(1, 1498) AS n WHERE at = $1
"""


async def insert_most_usage(url: str, key_id: UUID) -> None:
    """Write calls in 1,500 minutes, of more tools than there can be series."""
    minute = int(datetime.now(UTC).timestamp()) // 60
    async with connected(url) as sql:
        days_ago = [Fact(minute - days * DAY, key_id) for days in (1, 2)]
        await insert_facts(sql, [*days_ago, *(Fact(minute, key_id, f"tool-{tool}") for tool in range(60))])
        await sql.execute(_COPY, minute)


@pytest.mark.long
async def test_no_call_of_the_largest_size_blocks_the_loop(database_url: str, tmp_path: Path) -> None:
    """Applying, changing, showing and deleting the largest workspace, its first Authorize, and large batches.

    The short form leaves out the change.
    """
    limits = {"call_timeout": 120, "statement_timeout": 60}
    piece = in_one_piece(ApplyWorkspaceRequest(workspace=largest_workspace("w")).SerializeToString())
    async with serving(database_url, tmp_path, transport="grpcio", **limits) as service:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.raw_client", service.address, TOKENS["operator"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            calls = Calls(client, tmp_path / "request", piece)

            def applied(version: int) -> Message:
                return ApplyWorkspaceRequest(workspace=largest_workspace("w", version))

            await calls.hold_nobody_up("CatalogService/ApplyWorkspace", applied)
            if LONG:
                await calls.hold_nobody_up("CatalogService/ApplyWorkspace", lambda again: applied(again + _ATTEMPTS))
            await calls.hold_nobody_up("CatalogService/GetWorkspace", lambda _: GetWorkspaceRequest(workspace_id="w"))
            issued = [await service.operator.issue(workspace_id="w", description=f"{each}") for each in "abc"]
            tokens = [each.token for each in issued]
            await calls.hold_nobody_up(
                "AuthorizationService/Authorize", lambda attempt: pb.AuthorizeRequest(token=tokens[attempt])
            )
            await calls.hold_nobody_up(
                "AuthorizationService/ReadToolSet",
                lambda attempt: pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=tokens[attempt])),
            )
            await calls.hold_nobody_up(
                "KeyService/ExplainKey",
                lambda _: key_service_pb2.ExplainKeyRequest(key_id=issued[0].key.id, page_size=1000),
            )
            await calls.hold_nobody_up(
                "KeyService/ListToolUsers",
                lambda _: key_service_pb2.ListToolUsersRequest(workspace_id="w", tool_id="tool-00000", page_size=1000),
            )
            await calls.hold_nobody_up(
                "AuthorizationService/BatchAuthorize",
                lambda attempt: pb.BatchAuthorizeRequest(
                    requests=[
                        pb.AuthorizeRequest(token=tokens[0], tool_id=f"tool-{5000 * attempt + each:05}")
                        for each in range(1000)
                    ]
                ),
            )
            await calls.hold_nobody_up(
                "AuthorizationService/BatchAuthorize",
                lambda _: pb.BatchAuthorizeRequest(
                    requests=[
                        pb.AuthorizeRequest(token=Token.mint(KeyType.WORKSPACE, new_key_id()).reveal())
                        for _ in range(1000)
                    ]
                ),
            )
            await insert_most_usage(database_url, UUID(issued[0].key.id))
            usage = GetUsageRequest(workspace_id="w", step=Duration(seconds=60), group_by=USAGE_GROUP_TOOL, top=50)
            await calls.hold_nobody_up("ActivityService/GetUsage", lambda _: usage)
            await calls.hold_nobody_up(
                "CatalogService/DeleteWorkspace", lambda _: DeleteWorkspaceRequest(workspace_id="w")
            )
        finally:
            client.terminate()
            await client.wait()


@cache
def largest_contents() -> Contents:
    """Return what the largest workspace has."""
    return contents_of(convert_workspaces.workspace(largest_workspace("w")).catalog)


@pytest.mark.long
@pytest.mark.parametrize("variant", by_form(VARIANTS[-1:], VARIANTS), ids=str)
async def test_a_variant_of_the_largest_tool_set_does_not_block_the_loop(variant: Variant) -> None:
    """What it is made of, and its serialised form, are made in a thread."""
    contents = largest_contents()
    key: Any = object()  # nothing here looks at the key
    pieces, longest = [], []
    with closing(Offload()) as offload:
        for _ in range(_ATTEMPTS):
            servers = Servers(contents, lambda _: None)
            tools = SharedToolSet(servers, contents.reached(Reach(None, None)))
            begin = process_time()
            whole = servers.make("server") if variant.mcp_server else contents
            tools.variant(variant, whole).encode()
            pieces.append(process_time() - begin)
            encoder = ToolSetEncoder(offload)
            fresh = SharedToolSet(Servers(contents, lambda _: None), contents.reached(Reach(None, None)))
            async with watched() as stall:
                found = await encoder.varied((key, fresh), AuthorizeQuery("", variant=variant))
                assert not isinstance(found, Denied)
                assert isinstance(found[1], SharedToolSet)
                assert (await encoder.encoded(found[1])).version
            longest.append(stall[0])
            if min(longest) < min(pieces) / 2:
                return
    raise AssertionError(f"stalls of {longest} s, and the work in one piece takes {pieces} s")


async def test_dropping_very_many_keys_does_not_block_the_loop() -> None:
    """They are gone at once for every caller, and their memory is freed in portions."""
    memory = TestedMemory()
    cache = KeyCache(memory.lease, memory.fingerprint, 100_000)
    tokens = [minted() for _ in range(by_form(30_000, 100_000))]

    def fill() -> dict[str, KnownKey]:
        return {
            id_text(each.key_id): known_key(each, cache, memory.fingerprint, WorkspaceId("w"), 0) for each in tokens
        }

    keys = fill()
    begin = process_time()
    del keys
    piece = process_time() - begin
    longest = []
    for _ in range(_ATTEMPTS):
        cache._keys.update(fill())  # noqa: SLF001 - to verify a hundred thousand tokens would take minutes
        async with watched() as stall:
            cache.drop_all()
            assert len(cache) == 0
            for _ in range(1000):
                await asyncio.sleep(0)
        longest.append(stall[0])
        if longest[-1] < piece / 2:
            return
    raise AssertionError(f"stalls of {longest} s, and the work in one piece takes {piece} s")


async def test_a_page_of_keys_does_not_block_the_loop() -> None:
    """A thousand keys, each limited to a hundred hats, converted as the servicer converts them."""
    now = datetime.now(UTC)
    keys = [
        plain_key(
            description="d" * 200,
            hat_ids=tuple(HatId(f"hat-{number}") for number in range(100)),
            created_at=now,
            last_used_at=now,
            expires_at=now,
        )
        for _ in range(1000)
    ]
    page = Page(keys, end=None, listing="keys", page_tokens=PageTokens(bytes(32)))
    begin = process_time()
    expected = key_service_pb2.ListKeysResponse(keys=[convert.key_message(key, ORIGIN.caller) for key in keys])
    piece = process_time() - begin
    longest = []
    with closing(Offload()) as offload:
        for _ in range(_ATTEMPTS):
            async with watched() as stall:
                body = await offload.run(convert.list_keys_response, page, ORIGIN.caller)
            assert key_service_pb2.ListKeysResponse.FromString(body) == expected
            longest.append(stall[0])
            if longest[-1] < piece / 2:
                return
    raise AssertionError(f"stalls of {longest} s, and the work in one piece takes {piece} s")

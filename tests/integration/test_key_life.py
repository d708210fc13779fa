"""The life of keys: after each of many changes, two processes decide and explain as a plain model says."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from tests.support.lengths import by_form
from tests.support.life.life import Life
from tests.support.life.model import ModelKey, Reached, Verdict
from tests.support.life.stories import life as life_of
from tests.support.service import serving
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    import asyncpg

    from tests.support.service import Client, Service

    Sql = asyncpg.Connection[Any]
    Query = tuple[ModelKey, str, str | None, Awaitable[Verdict]]

SOURCES = ("", "10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::1")


async def agree(life: Life) -> None:
    """Compare what each process decides and explains about keys with the model."""
    asked = [query for key in await life.to_look_at() for query in queries(life, key)]
    before = await life.now()
    found = await asyncio.gather(*(ask for *_, ask in asked))
    after = await life.now()
    for (key, source_ip, tool_id, _), verdict in zip(asked, found, strict=True):
        expected = [life.model.verdict(key, now, source_ip, tool_id) for now in (before, after)]
        assert verdict in expected, (key, source_ip, tool_id)


def queries(life: Life, key: ModelKey) -> list[Query]:
    """Return queries about a key: everything on each process, a tool on one, and an explanation by one."""
    source, token = life.choose.source, life.tokens[key.id]
    tool_id = f"tool-{source.randrange(8)}"
    found: list[Query] = []
    for service in life.choose.services:
        source_ip = source.choice(SOURCES)
        found.append((key, source_ip, None, authorize(service.service, token, source_ip)))
    source_ip, service = source.choice(SOURCES), source.choice(life.choose.services)
    found.append((key, source_ip, tool_id, authorize(service.service, token, source_ip, tool_id)))
    explained = source.choice([None, tool_id])
    explanation = explain(service.operator, key.id, source_ip, explained, life.model.reached(key))
    return [*found, (key, source_ip, explained, explanation)]


async def authorize(client: Client, token: str, source_ip: str, tool_id: str | None = None) -> Verdict:
    """Return what a process decides."""
    response = await client.authorize(token, source_ip=source_ip, tool_id=tool_id)
    if response.HasField("denied"):
        return Verdict(_reason(response.denied.reason))
    found = response.granted.tool_set
    return Verdict("", Reached(frozenset(hat.id for hat in found.hats), frozenset(tool.id for tool in found.tools)))


async def explain(client: Client, key_id: str, source_ip: str, tool_id: str | None, reached: Reached) -> Verdict:
    """Return what a process explains. What the key reaches must be right whatever denies it."""
    scope: dict[str, Any] = {"tool_id": tool_id}
    request = pb.ExplainKeyRequest(key_id=key_id, source_ip=source_ip, **scope)
    found = await client.keys.ExplainKey(request)
    reach = (pb.HAT_REACH_WORKSPACE, pb.HAT_REACH_TEAM)
    hats = frozenset(hat.hat_id for hat in found.hats if hat.reach in reach)
    assert hats == reached.hats, key_id
    denial = _reason(found.denial) if found.denial else ""
    if tool_id is not None:
        assert found.HasField("tool") == (not denial)
        return Verdict(denial)
    shown = Reached(hats, frozenset(tool.id for tool in found.tools))
    assert shown == reached, key_id
    return Verdict(denial, Reached() if denial else shown)


def _reason(reason: Any) -> str:
    return authorization_service_pb2.DenialReason.Name(reason).removeprefix("DENIAL_REASON_")


async def live(service: Service, sql: Sql, folder: Path, seed: int, chapters: int) -> None:
    """Let keys live by the service and by another process, which is replaced now and then."""
    async with AsyncExitStack() as stack:

        async def replaced() -> Service:
            await stack.aclose()
            return await stack.enter_async_context(serving(service.database_url, folder, transport="grpcio"))

        life = Life((service, await replaced()), sql, seed, replaced)
        await life.start()
        hits = await service.metric("cache_hits_total")
        steps = life_of(life.source("steps"), chapters)
        for number, step in enumerate(steps):
            print(f"step {number}: {step}")  # noqa: T201 - pytest shows it where the test fails
            await life.make(number, step)
            print(f"refused: {life.refused}" if life.refused else "made")  # noqa: T201 - the same
            await agree(life)
        assert await service.metric("cache_hits_total") > hits + len(steps), "much was decided from memory"


@pytest.mark.parametrize("seed", by_form([None], [None], [None] * 3))
@GRPCIO_IF_SHORT
async def test_keys_do_what_the_model_says(empty_service: Service, sql: Sql, tmp_path: Path, seed: int | None) -> None:
    """After every step, on both processes, from memory and not. To repeat a failure, put its seed in the list."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    await live(empty_service, sql, tmp_path, seed, by_form(1, 5))

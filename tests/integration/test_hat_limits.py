"""A limit to named hats outlives the hats: it is kept by their ids, and no change to hats ever widens it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.token import KeyType
from tests.support.calls import part, remove
from tests.support.fence import LONG
from tests.support.fleet import ORIGIN, Process, process
from tests.support.lengths import by_form
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from skilder_keys.domain.keys import Key

HATS = ("customer-care", "engineer", "everyone", "support-desk")
OF_BOB = {"customer-care", "everyone", "support-desk"}


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes that decide from memory."""
    async with process(database_url, lease=LONG) as one, process(database_url, lease=LONG) as other:
        await one.apply()
        await one.follow()
        await other.follow()
        yield one, other


async def reached(of: Process, token: str) -> list[str]:
    """Return the ids of the hats that a token reaches, which must be the same from memory."""
    first = (await of.ask(token)).granted
    hits = of.memory.hits
    assert (await of.ask(token)).granted == first
    assert of.memory.hits == hits + 1
    return [hat.id for hat in first.tool_set.hats]


@pytest.mark.parametrize("seed", range(by_form(1, 3)))
async def test_a_limited_key_reaches_the_named_hats_through_all_changes(
    fleet: tuple[Process, Process], seed: int
) -> None:
    """From every process's memory it reaches exactly the named hats that exist now and serve its user, or none."""
    chance = random.Random(seed)  # noqa: S311 - the same again for the same seed
    one, other = fleet
    issued: list[tuple[Key, str, set[str], set[str]]] = []
    for limit in [None, (), ("engineer",), ("everyone", "support-desk"), HATS]:
        named = set(HATS if limit is None else limit)
        key, token = await one.issue(hat_ids=limit)
        issued.append((key, token, named, set(HATS)))
        key, token = await one.issue(KeyType.USER, user_id="bob", hat_ids=limit)
        issued.append((key, token, named, OF_BOB))
    for _ in range(12):
        workspace = small_workspace()
        gone = set(chance.sample(HATS, chance.randint(0, len(HATS))))
        remove(workspace.hats, *gone)
        if "everyone" not in gone:
            part(workspace.hats, "everyone").name = f"Everyone {chance.random()}"
        await one.apply(workspace)
        for key, token, limit_ids, served in issued:
            for of in fleet:
                assert await reached(of, token) == sorted((limit_ids & served) - gone)
            shown = await other.keys.get(str(key.id), None, NO_LIMITS)
            assert shown.hat_ids == key.hat_ids


async def test_a_hat_that_comes_back_under_another_id_is_another_hat(fleet: tuple[Process, Process]) -> None:
    """A changed id is a removed hat and a new one, which no limit names."""
    one, other = fleet
    _, token = await one.issue(hat_ids=("engineer",))
    workspace = small_workspace()
    part(workspace.hats, "engineer").id = "engineers"
    await one.apply(workspace)
    assert await reached(other, token) == []


async def test_keys_of_a_deleted_workspace_keep_their_limit(fleet: tuple[Process, Process]) -> None:
    """They show it and are denied."""
    one, other = fleet
    key, token = await one.issue(hat_ids=("engineer",))
    await one.workspaces.delete(key.workspace_id, None, ORIGIN)
    assert await other.outcome(token) == "WORKSPACE_GONE"
    assert (await other.keys.get(str(key.id), None, NO_LIMITS)).hat_ids == ("engineer",)


async def test_an_older_process_keeps_the_limit_too(
    fleet: tuple[Process, Process], sql: asyncpg.Connection[Any]
) -> None:
    """When a hat is removed, an older worker beside this one deletes the row and raises the version."""
    one, other = fleet
    _, token = await one.issue(hat_ids=("engineer", "everyone"))
    async with sql.transaction():
        await sql.execute("DELETE FROM hat WHERE id = 'engineer'")
        await sql.execute("UPDATE workspace SET version = version + 1")
    await one.writer.settle()
    assert await reached(other, token) == ["everyone"]
    await one.apply()
    assert await reached(other, token) == ["engineer", "everyone"]

"""Keys in memory: who is found there, and what a change takes away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.permissions import ToolSet
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id
from tests.support.memory import ACME, GLOBEX, Memory, minted, turns

if TYPE_CHECKING:
    from skilder_keys.app.authorization.cache import KnownKey, Load


@pytest.fixture
def memory() -> Memory:
    """An empty memory."""
    return Memory()


async def test_a_kept_key_is_found_by_its_one_token(memory: Memory) -> None:
    """By no other secret, type or spelling, nor by anything that is no token."""
    token = minted()
    known = await memory.keep(token)
    text = token.reveal()
    assert memory.cache.find(text) is known
    others = [
        Token.mint(token.type, token.key_id).reveal(),
        replace(token, type=KeyType.USER).reveal(),
        text[:-1] + ("1" if text[-1] == "0" else "0"),
        text + "0",
        "usk_" + text[4:],
        text[:26],
        "",
        "\N{KEY}" * 75,
        "WSK_" + "\ud800" * 71,
    ]
    assert [memory.cache.find(other) for other in others] == [None] * len(others)
    assert (memory.cache.hits, memory.cache.misses) == (1, len(others))


async def test_another_token_of_a_kept_key_is_refused(memory: Memory) -> None:
    """Memory knows that it is wrong; of a key that it does not hold it knows nothing."""
    token = minted()
    await memory.keep(token)
    wrong = memory.fingerprint.digest(Token.mint(token.type, token.key_id).reveal())
    assert memory.cache.rejects(token.key_id, wrong)
    assert not memory.cache.rejects(token.key_id, memory.fingerprint.digest(token.reveal()))
    assert not memory.cache.rejects(new_key_id(), wrong)
    memory.cache.drop_key(token.key_id)
    assert not memory.cache.rejects(token.key_id, wrong)


async def test_memory_says_nothing_without_a_lease(memory: Memory) -> None:
    """Neither that a token is right nor that it is wrong; with a lease again it does, unless something changed."""
    token = minted()
    known = await memory.keep(token)
    wrong = memory.fingerprint.digest(Token.mint(token.type, token.key_id).reveal())
    memory.lapse()
    assert memory.cache.find(token.reveal()) is None
    assert not memory.cache.rejects(token.key_id, wrong)
    memory.renew()
    assert memory.cache.find(token.reveal()) is known
    memory.lapse()
    memory.cache.drop_key(token.key_id)
    memory.renew()
    assert memory.cache.find(token.reveal()) is None


async def test_the_key_used_longest_ago_goes_first(memory: Memory) -> None:
    """With room for three; a wrong secret for a key counts as use of what memory knows of it."""
    first, second, third, fourth = [minted() for _ in range(4)]
    for token in (first, second, third):
        await memory.keep(token)
    assert memory.cache.find(first.reveal()) is not None
    await memory.keep(fourth)
    assert len(memory.cache) == 3
    found = [memory.cache.find(token.reveal()) is not None for token in (first, second, third, fourth)]
    assert found == [True, False, True, True]
    await memory.keep(fourth)
    assert len(memory.cache) == 3, "a key that is read again takes no second place"


async def test_a_changed_key_is_forgotten_and_no_other(memory: Memory) -> None:
    """By its id alone."""
    changed, other = minted(), minted()
    await memory.keep(changed)
    await memory.keep(other)
    memory.cache.drop_key(changed.key_id)
    memory.cache.drop_key(new_key_id())
    assert memory.cache.find(changed.reveal()) is None
    assert memory.cache.find(other.reveal()) is not None


async def test_a_changed_workspace_makes_all_its_keys_stale(memory: Memory) -> None:
    """At once, however many they are; those that are read afterwards are of the new state."""
    keys, other = [minted(), minted()], minted()
    for token in keys:
        await memory.keep(token)
    await memory.keep(other, GLOBEX)
    memory.cache.drop_workspace(ACME)
    assert [memory.cache.find(token.reveal()) for token in keys] == [None, None]
    assert memory.cache.find(other.reveal()) is not None
    assert not memory.cache.rejects(keys[0].key_id, b"")
    again = await memory.keep(keys[0])
    assert memory.cache.find(keys[0].reveal()) is again
    assert memory.cache.find(keys[1].reveal()) is None
    memory.cache.drop_workspace(ACME)
    memory.cache.drop_workspace(WorkspaceId("unknown"))
    assert memory.cache.find(keys[0].reveal()) is None


async def test_drop_all_forgets_everything(memory: Memory) -> None:
    """Every key, and every load that is under way."""
    kept, loading = minted(), minted()
    await memory.keep(kept)
    task = asyncio.create_task(memory.load(loading))
    await turns()
    memory.cache.drop_all()
    assert len(memory.cache) == 0
    assert memory.cache.find(kept.reveal()) is None
    memory.let_go(1)
    assert await task is not None
    assert len(memory.cache) == 0


async def test_a_tool_set_that_was_evicted_has_its_key_read_again(memory: Memory) -> None:
    """So that the memory it took is freed."""
    token = minted()
    known = await memory.keep(token)
    replaced = SharedToolSet(ToolSet((), ()))
    memory.cache.drop_key(token.key_id)

    async def read(_: Load) -> KnownKey | None:
        return replace(known, tool_set=replaced)

    await memory.cache.load(token, token.key_id, read)
    assert memory.cache.find(token.reveal()) is not None
    replaced.evicted = True
    assert memory.cache.find(token.reveal()) is None


async def test_a_scope_is_one_for_a_workspace_until_it_changes(memory: Memory) -> None:
    """And costs nothing once no key is of it."""
    first = memory.cache.scope(ACME)
    assert memory.cache.scope(ACME) is first
    assert memory.cache.scope(GLOBEX) is not first
    memory.cache.drop_workspace(ACME)
    assert first.stale
    second = memory.cache.scope(ACME)
    assert (second is first, second.stale) == (False, False)

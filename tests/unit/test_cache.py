"""Keys in memory: which tokens the cache finds, and what a change removes."""

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
    """An empty cache."""
    return Memory()


async def test_a_cached_key_is_found_by_its_own_token_only(memory: Memory) -> None:
    """Another secret, type or spelling does not find it, nor does text that is no token."""
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


async def test_a_wrong_token_of_a_cached_key_is_refused(memory: Memory) -> None:
    """The cache knows that it is wrong. About a key that is not cached it says nothing."""
    token = minted()
    await memory.keep(token)
    wrong = memory.fingerprint.digest(Token.mint(token.type, token.key_id).reveal())
    assert memory.cache.rejects(token.key_id, wrong)
    assert not memory.cache.rejects(token.key_id, memory.fingerprint.digest(token.reveal()))
    assert not memory.cache.rejects(new_key_id(), wrong)
    memory.cache.drop([token.key_id], ())
    assert not memory.cache.rejects(token.key_id, wrong)


async def test_the_cache_is_not_used_without_a_lease(memory: Memory) -> None:
    """It neither grants nor refuses; with a lease again it does both, unless something changed."""
    token = minted()
    known = await memory.keep(token)
    wrong = memory.fingerprint.digest(Token.mint(token.type, token.key_id).reveal())
    memory.lapse()
    assert memory.cache.find(token.reveal()) is None
    assert not memory.cache.rejects(token.key_id, wrong)
    memory.renew()
    assert memory.cache.find(token.reveal()) is known
    memory.lapse()
    memory.cache.drop([token.key_id], ())
    memory.renew()
    assert memory.cache.find(token.reveal()) is None


async def test_the_least_recently_used_key_is_evicted_first(memory: Memory) -> None:
    """With room for three keys; a wrong secret counts as use when the cache checks it."""
    first, second, third, fourth = [minted() for _ in range(4)]
    for token in (first, second, third):
        await memory.keep(token)
    assert memory.cache.find(first.reveal()) is not None
    await memory.keep(fourth)
    assert len(memory.cache) == 3
    found = [memory.cache.find(token.reveal()) is not None for token in (first, second, third, fourth)]
    assert found == [True, False, True, True]
    await memory.keep(fourth)
    assert len(memory.cache) == 3, "a key that is read again is counted once"


async def test_a_changed_key_is_forgotten_and_no_other(memory: Memory) -> None:
    """A change that names a key id drops that key only."""
    changed, other = minted(), minted()
    await memory.keep(changed)
    await memory.keep(other)
    memory.cache.drop([changed.key_id], ())
    memory.cache.drop([new_key_id()], ())
    assert memory.cache.find(changed.reveal()) is None
    assert memory.cache.find(other.reveal()) is not None


async def test_a_changed_workspace_makes_all_its_keys_stale(memory: Memory) -> None:
    """All at once, however many there are; keys that are read afterwards have the new state."""
    keys, other = [minted(), minted()], minted()
    for token in keys:
        await memory.keep(token)
    await memory.keep(other, GLOBEX)
    memory.cache.drop((), [ACME])
    assert [memory.cache.find(token.reveal()) for token in keys] == [None, None]
    assert memory.cache.find(other.reveal()) is not None
    assert not memory.cache.rejects(keys[0].key_id, b"")
    again = await memory.keep(keys[0])
    assert memory.cache.find(keys[0].reveal()) is again
    assert memory.cache.find(keys[1].reveal()) is None
    memory.cache.drop((), [ACME])
    memory.cache.drop((), [WorkspaceId("unknown")])
    assert memory.cache.find(keys[0].reveal()) is None


async def test_drop_all_forgets_everything(memory: Memory) -> None:
    """It drops every key and invalidates every running load."""
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


async def test_a_key_whose_tool_set_was_evicted_is_read_again(memory: Memory) -> None:
    """So the memory of an evicted tool set is really freed."""
    token = minted()
    known = await memory.keep(token)
    replaced = SharedToolSet(ToolSet((), ()))
    memory.cache.drop([token.key_id], ())

    async def read(_: Load) -> KnownKey | None:
        return replace(known, tool_set=replaced)

    await memory.cache.load(token, token.key_id, read)
    assert memory.cache.find(token.reveal()) is not None
    replaced.evicted = True
    assert memory.cache.find(token.reveal()) is None


async def test_keys_of_a_workspace_share_one_scope_until_it_changes(memory: Memory) -> None:
    """The scope is freed once no key uses it."""
    first = memory.cache.scope(ACME)
    assert memory.cache.scope(ACME) is first
    assert memory.cache.scope(GLOBEX) is not first
    memory.cache.drop((), [ACME])
    assert first.stale
    second = memory.cache.scope(ACME)
    assert (second is first, second.stale) == (False, False)

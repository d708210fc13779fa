"""Keys in memory: which tokens are found, and what a change removes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from skilder_keys.app.authorization.snapshot import OPEN
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id
from tests.support.memory import (
    ACME,
    GLOBEX,
    TestedMemory,
    minted,
    touched_key,
    touched_keys,
    touched_part,
    turns,
)


@pytest.fixture
def memory() -> TestedMemory:
    """An empty memory."""
    return TestedMemory()


async def test_a_key_in_memory_is_found_by_its_own_token_only(memory: TestedMemory) -> None:
    """Another secret, type or spelling does not find it, nor does text that is no token."""
    token = minted()
    known = await memory.keep(token)
    text = token.reveal()
    assert memory.keys.find(text) is known
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
    assert [memory.keys.find(other) for other in others] == [None] * len(others)
    assert memory.get(token.key_id) is known
    assert memory.get(new_key_id()) is None


async def test_memory_is_not_used_without_a_lease(memory: TestedMemory) -> None:
    """Neither by the token nor by the id; with a lease again it is, unless something changed."""
    token = minted()
    known = await memory.keep(token)
    memory.lapse()
    assert (memory.keys.find(token.reveal()), memory.get(token.key_id)) == (None, None)
    memory.renew()
    assert memory.keys.find(token.reveal()) is known
    memory.lapse()
    memory.change(touched_key(token.key_id))
    memory.renew()
    assert (memory.keys.find(token.reveal()), memory.get(token.key_id)) == (None, None)


async def test_the_least_recently_used_key_is_evicted_first(memory: TestedMemory) -> None:
    """With room for three keys. The evicted one is closed, because no change is noted there any more."""
    first, second, third, fourth = [minted() for _ in range(4)]
    kept = [await memory.keep(token) for token in (first, second, third)]
    assert memory.keys.find(first.reveal()) is not None
    memory.change()
    await memory.keep(fourth)
    assert len(memory.keys) == 3
    found = [memory.keys.find(token.reveal()) is not None for token in (first, second, third, fourth)]
    assert found == [True, False, True, True]
    assert [each.until for each in kept] == [OPEN, memory.lease.epoch, OPEN]
    again = await memory.keep(fourth)
    assert len(memory.keys) == 3, "a key that is read again is counted once"
    assert memory.keys.find(fourth.reveal()) is again


async def test_a_changed_key_is_forgotten_and_no_other(memory: TestedMemory) -> None:
    """A change that names a key drops that key only; a call that holds it sees until when it was right."""
    changed, other = minted(), minted()
    known, kept = await memory.keep(changed), await memory.keep(other)
    memory.change()
    memory.change(touched_key(changed.key_id), touched_key(new_key_id()))
    assert memory.keys.find(changed.reveal()) is None
    assert memory.keys.find(other.reveal()) is kept
    assert (known.until, kept.until) == (memory.lease.epoch - 1, OPEN)


async def test_a_change_of_a_workspace_leaves_its_keys_alone(memory: TestedMemory) -> None:
    """Whatever it touches: what its keys reach is on the other level."""
    token = minted()
    known = await memory.keep(token)
    for part in Part:
        for part_id in (None, "one"):
            memory.change(touched_part(part, part_id))
    assert memory.keys.find(token.reveal()) is known


async def test_a_change_of_all_keys_of_a_workspace_drops_them_at_once(memory: TestedMemory) -> None:
    """However many there are; keys that are read afterwards have the new state."""
    keys, other = [minted(), minted()], minted()
    known = [await memory.keep(token) for token in keys]
    await memory.keep(other, GLOBEX)
    memory.change(touched_keys(ACME))
    assert [memory.keys.find(token.reveal()) for token in keys] == [None, None]
    assert {each.until for each in known} == {memory.lease.epoch - 1}
    assert memory.keys.find(other.reveal()) is not None
    again = await memory.keep(keys[0])
    assert memory.keys.find(keys[0].reveal()) is again
    assert memory.keys.find(keys[1].reveal()) is None
    memory.change(touched_keys(WorkspaceId("unknown")))
    assert memory.keys.find(keys[0].reveal()) is again
    memory.change(touched_keys(ACME))
    assert memory.keys.find(keys[0].reveal()) is None


async def test_drop_all_forgets_everything(memory: TestedMemory) -> None:
    """Nothing that a call holds can be used at any epoch, nor the result of a running load."""
    kept, loading = minted(), minted()
    known = await memory.keep(kept)
    task = asyncio.create_task(memory.load(loading))
    await turns()
    memory.memory.drop_all()
    assert len(memory.keys) == 0
    assert memory.keys.find(kept.reveal()) is None
    memory.let_go(1)
    loaded = await task
    assert loaded is not None
    assert (known.until < 0, loaded.until < 0) == (True, True)
    assert len(memory.keys) == 0


async def test_a_key_that_the_database_refused_is_read_again(memory: TestedMemory) -> None:
    """Once it is forgotten; a newer one in its place stays."""
    token = minted()
    first = await memory.keep(token)
    memory.keys.forget(first)
    assert memory.keys.find(token.reveal()) is None
    second = await memory.keep(token)
    memory.keys.forget(first)
    assert memory.keys.find(token.reveal()) is second

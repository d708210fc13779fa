"""Freeing memory in portions."""

from __future__ import annotations

import asyncio

from skilder_keys.app.authorization.release import release


async def test_a_large_structure_is_freed_in_portions() -> None:
    """Other work runs in between, and in the end all of it is freed."""
    held = dict.fromkeys(range(5000))
    sizes = []
    release(held, 1000)
    while held:
        sizes.append(len(held))
        await asyncio.sleep(0)
    assert sizes == [5000, 4000, 3000, 2000, 1000]


async def test_a_small_structure_is_freed_at_once() -> None:
    """As any other object, when its last reference goes."""
    held = dict.fromkeys(range(10))
    release(held, 10)
    await asyncio.sleep(0)
    assert len(held) == 10

"""Freeing memory in portions."""

from __future__ import annotations

import asyncio

from skilder_keys.app.authorization.release import release


async def test_much_is_freed_bit_by_bit() -> None:
    """Other work is done in between, and in the end all of it is gone."""
    held = dict.fromkeys(range(5000))
    sizes = []
    release(held, 1000)
    while held:
        sizes.append(len(held))
        await asyncio.sleep(0)
    assert sizes == [5000, 4000, 3000, 2000, 1000]


async def test_little_is_left_to_its_last_user() -> None:
    """It is freed as any other object."""
    held = dict.fromkeys(range(10))
    release(held, 10)
    await asyncio.sleep(0)
    assert len(held) == 10

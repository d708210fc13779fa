"""How long one callback holds an event loop, by the CPU time of its thread: what other programs do does not count."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

from bench.catalog import KINDS
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.ids import ToolId
from tests.support.fleet import process
from tests.support.garbage import collected_as_in_a_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.catalog import Kind
    from tests.support.fleet import Process

_SECONDS = 1.0
_AT_ONCE = 64
_CAPACITY = 100_000
_SNAPSHOT_BYTES = 2**30


@dataclass
class Held:
    """The longest callback so far, in seconds."""

    seconds: float = 0.0


@contextmanager
def watched() -> Iterator[Held]:
    """Measure each callback of the event loop."""
    held = Held()
    run = asyncio.Handle._run  # noqa: SLF001 - asyncio has no other place for it

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        held.seconds = max(held.seconds, time.thread_time() - began)

    with patch.object(asyncio.Handle, "_run", timed):
        yield held


async def after_changes(
    url: str, asked: Sequence[tuple[str, str]], change: Callable[[Kind], object], rounds: int
) -> float:
    """Return the longest callback, in seconds, of a process without a server around it, while a workspace changes.

    Args:
        url: The database.
        asked: The tokens, each with a tool. The process knows all keys at first.
        change: Makes a change; it runs in a thread.
        rounds: How often each kind of change is made. For a second after each, 64 calls at a time are made.
    """
    async with process(url, capacity=_CAPACITY, snapshot_bytes=_SNAPSHOT_BYTES) as one:
        await one.follow()
        await _ask(one, asked)
        with collected_as_in_a_worker(), watched() as held:
            for kind in KINDS * rounds:
                await asyncio.to_thread(change, kind)
                until = time.monotonic() + _SECONDS
                while time.monotonic() < until:
                    await _ask(one, asked)
    return held.seconds


async def _ask(one: Process, asked: Sequence[tuple[str, str]]) -> None:
    waiting = iter(asked)

    async def lane() -> None:
        for token, tool in waiting:
            decision = await one.decide(AuthorizeQuery(token, ToolId(tool)))
            assert decision.denied is None, f"a key of the benchmark is denied: {decision.denied}"
            await asyncio.sleep(0)

    await asyncio.gather(*(lane() for _ in range(_AT_ONCE)))

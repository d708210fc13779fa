"""Long work beside the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Offload:
    """One thread for work that would hold up the event loop.

    One, since Python runs one thread at a time: each more would take its turn before the event loop gets its own.
    What runs here must not spend long in one call of a C library that keeps other threads out, such as parsing or
    sorting very much at once.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="offload")

    async def run(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
    ) -> Result:
        """Return what the function returns, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(function, *arguments, **options)
        )

    def close(self) -> None:
        """Finish what runs, and drop what waits."""
        self._executor.shutdown(cancel_futures=True)

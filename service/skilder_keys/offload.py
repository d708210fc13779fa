"""A thread for long work, so that the event loop is free."""

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
    """One thread for work that would block the event loop.

    Python runs one thread at a time, so with more threads the event loop would have to wait for each of them. Work here
    must not spend long in a single C call that holds the interpreter lock, e.g. to parse or sort a lot at once.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="offload")

    async def run(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
    ) -> Result:
        """Run a function in the thread; return what it returns, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(function, *arguments, **options)
        )

    def close(self) -> None:
        """Finish the running function, and drop those that wait."""
        self._executor.shutdown(cancel_futures=True)

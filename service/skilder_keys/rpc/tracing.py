"""Tracing of calls, as the pipeline sees it. Without it a call does not know of traces at all, so it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys.rpc.context import Context


class Tracing(Protocol):
    """Makes a span of each call."""

    def traced(self, path: str, serve: Callable[[Any], Awaitable[Any]]) -> Callable[[Context], Awaitable[Any]]:
        """Return a function that serves a call as `serve` does, within a span.

        Args:
            path: The path of the method.
            serve: Serves a call of the method.
        """

    def note_caller(self, name: str) -> None:
        """Note the name of the caller in the span of the present call."""

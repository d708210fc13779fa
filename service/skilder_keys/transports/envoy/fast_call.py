"""A call on the fast path, as Envoy passes it on."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from skilder_keys.transports.envoy.response import events_of
from skilder_keys.transports.framing import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.domain.access import Caller
    from skilder_keys.rpc.fast_path import FastPath
    from skilder_keys.transports.envoy.context import Event, Send

    Slow = Callable[[], asyncio.Task[None]]


class FastCall:
    """A call that can probably be answered from memory: it waits for its message and then responds at once, in no task.

    A call that memory cannot answer, or whose message takes too long, continues in the pipeline. So this path needs no
    time limit and no log. Nothing on it may raise an error: no task would report it, and the call would hang.
    """

    __slots__ = ("_began", "_caller", "_fast_path", "_first", "_on_done", "_send", "_slow", "_waiting")

    def __init__(
        self,
        fast_path: FastPath,
        caller: Caller,
        first: asyncio.Future[Event],
        send: Send,
        slow: Slow,
        waiting: set[FastCall],
    ) -> None:
        """Wait for the message.

        Args:
            fast_path: The fast path of the method.
            caller: The caller.
            first: The result of the first `receive()`.
            send: Sends an event.
            slow: Starts the task that serves the call through the pipeline.
            waiting: The calls that wait for their messages. This call is in the set while it waits.
        """
        self._began = perf_counter()
        self._fast_path = fast_path
        self._caller = caller
        self._first = first
        self._send = send
        self._slow = slow
        self._waiting = waiting
        waiting.add(self)
        first.add_done_callback(self._decide)

    def add_done_callback(self, on_done: Callable[[asyncio.Task[None]], object]) -> None:
        """Call `on_done` when the call has ended in the pipeline. It is not called for a call on the fast path."""
        self._on_done = on_done

    def fall_back(self) -> None:
        """Continue in the pipeline, unless the message has arrived."""
        if not self._first.done():
            self._first.remove_done_callback(self._decide)
            self._waiting.remove(self)
            self._start_slow()

    def _decide(self, first: asyncio.Future[Event]) -> None:
        self._waiting.remove(self)
        event = first.result()
        message = plain(event["body"], self._fast_path.max_bytes) if event.get("more_body") is False else None
        response = None if message is None else self._fast_path.respond(message, self._caller, self._began)
        if response is None:
            self._start_slow()
            return
        for part in events_of(response):
            self._send(part)  # pyvoy sends synchronously, so nothing needs to be awaited

    def _start_slow(self) -> None:
        self._slow().add_done_callback(self._on_done)


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncio has it
    """Create tasks as asyncio does, and return a FastCall as it is: pyvoy makes a task of what it is given."""
    return work if isinstance(work, FastCall) else asyncio.Task(work, loop=loop, **options)

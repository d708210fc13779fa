"""A worker's end of the socket to its parent. `ipc` describes the messages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skilder_keys.ipc import messages
from skilder_keys.ipc.metrics import families_of
from skilder_keys.worker.handover import hand_over

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.config import Settings
    from skilder_keys.transports.frontend import Frontend


class ParentLink:
    """Sends messages to the parent, and handles the parent's messages."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settings: Settings,
        registry: CollectorRegistry,
        frontend: Frontend,
        stopping: asyncio.Event,
    ) -> None:
        """Take the two directions of the socket, the sources of the metrics, and the event that ends this worker."""
        self._reader = reader
        self._writer = writer
        self._settings = settings
        self._registry = registry
        self._frontend = frontend
        self._stopping = stopping
        self._opening = asyncio.Event()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self._writer.write(messages.encode(message))

    async def open(self) -> None:
        """Report that this worker could listen, and return when it has to."""
        self.send({"prepared": None})
        await self._opening.wait()

    def send_failure(self, error: Exception, reason: str) -> None:
        """Report why this worker did not start."""
        self._writer.write(messages.encode_failure(error, reason))

    async def listen(self, log: FilteringBoundLogger) -> None:
        """Handle the parent's messages. Make this worker end when the parent has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                with suppress(ConnectionError):
                    while line := await self._reader.readline():
                        self._receive(messages.decode(line), group)
                log.warning("the parent is gone: this worker ends")
                return
        finally:
            self._stopping.set()

    def _receive(self, message: dict[str, Any], group: asyncio.TaskGroup) -> None:
        match message:
            case {"ping": int() as number}:
                self.send({"pong": number})
            case {"ask": "metrics"}:
                group.create_task(self._send_metrics())
            case {"hand_over": int() as successor}:
                group.create_task(self._hand_over(successor))
            case {"open": _}:
                self._opening.set()
            case {"drain": _}:
                self._stopping.set()

    async def _send_metrics(self) -> None:
        metrics = [*self._registry.collect(), *await self._frontend.metrics()]
        self.send({"metrics": families_of(metrics)})

    async def _hand_over(self, successor: int) -> None:
        port = int(self._settings.listen.rpartition(":")[2])
        await hand_over(port, successor, self._settings.max_connection_age)
        self._stopping.set()

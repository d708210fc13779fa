"""The standard health service (grpc.health.v1), which follows the database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2

from service.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

    from service.storage.database import Database


MAX_WATCHES = 100


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]  # untyped
    """The standard servicer, but for watches, which anybody may open, and keep, with no token.

    They are counted. The standard ones hold a lock while they write, and setting a status needs it: one client that
    reads nothing would freeze the status for all, and the end of the server with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Event] = set()
        self._ending = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: ANN401, N802
        """Sends the status of a service, and again whenever it changes, until the server ends."""
        if len(self._watches) >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} watches are open already.")
        changed = asyncio.Event()
        self._watches.add(changed)
        sent = None
        try:
            while True:
                changed.clear()
                unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                status = self._server_status.get(request.service, unknown)
                if status != sent:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    sent = status
                elif self._ending:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "The server ends.")
                else:
                    await changed.wait()
        finally:
            self._watches.discard(changed)

    async def set(self, service: str, status: int) -> None:
        """Sets the status of a service."""
        await super().set(service, status)
        self._wake()

    async def enter_graceful_shutdown(self) -> None:
        """Says NOT_SERVING from here on, and ends every watch with it."""
        await super().enter_graceful_shutdown()
        self._ending = True
        self._wake()

    def _wake(self) -> None:
        for changed in self._watches:
            changed.set()


class Health:
    """Answers SERVING while the database answers, and NOT_SERVING while it does not or the server drains.

    Attributes:
        servicer: The servicer to add to the server.
    """

    def __init__(
        self, database: Database, services: Sequence[str], log: FilteringBoundLogger, interval: float = 1.0
    ) -> None:
        """Takes the full names of the services it speaks for, and the seconds between two looks at the database."""
        self.servicer = _HealthServicer()
        self._database = database
        self._services = ("", *services)
        self._log = log
        self._interval = interval
        self._serving: bool | None = None

    async def check(self) -> None:
        """Looks at the database once and sets the status by it."""
        try:
            async with asyncio.timeout(self._interval):
                await self._database.ping()
            serving = True
        except (UnavailableError, TimeoutError):
            serving = False
        except Exception as error:  # noqa: BLE001 - one that ended `run` would leave the last status standing
            self._log.error("health", exc_info=error)
            serving = False
        if serving is not self._serving:
            self._log.info("health", serving=serving)
            self._serving = serving
        status = health_pb2.HealthCheckResponse
        for name in self._services:
            await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def run(self) -> None:
        """Looks at the database again and again until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.check()

    async def drain(self) -> None:
        """Says NOT_SERVING from here on, so that clients go elsewhere, and ends what would hold the server up."""
        await self.servicer.enter_graceful_shutdown()

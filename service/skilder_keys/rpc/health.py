"""The standard health service (grpc.health.v1), which reports whether the database responds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.rpc.errors import StatusError
from skilder_keys.rpc.public import PublicMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.rpc.public import PublicCall
    from skilder_keys.storage.database import Database


_STATUS = health_pb2.HealthCheckResponse
HEALTH_SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """Reports SERVING while the database responds, and NOT_SERVING while it does not or the server drains."""

    def __init__(
        self,
        database: Database,
        services: Sequence[str],
        log: FilteringBoundLogger,
        interval: float = 1.0,
        report: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Make the health service.

        Args:
            database: The database to check.
            services: The full names of the services whose status it reports.
            log: The log.
            interval: Seconds between two checks of the database.
            report: Called with whether the server serves, whenever that changes.
        """
        self._statuses: dict[str, int] = {}
        self._watches: set[asyncio.Event] = set()
        self._ending = False
        self._database = database
        self._services = ("", *services)
        self._log = log
        self._interval = interval
        self._report = report
        self._serving: bool | None = None

    async def check(self) -> None:
        """Check the database once and set the status."""
        try:
            async with asyncio.timeout(self._interval):
                await self._database.ping()
            serving = True
        except (UnavailableError, TimeoutError):
            serving = False
        except Exception as error:  # noqa: BLE001 - an error that ended `run` would leave the last status in place
            self._log.error("health", exc_info=error)
            serving = False
        if serving is not self._serving:
            self._log.info("health", serving=serving)
            self._serving = serving
            if not self._ending:
                self._report(serving)
        if not self._ending:
            self._set(_STATUS.SERVING if serving else _STATUS.NOT_SERVING)

    @property
    def methods(self) -> tuple[PublicMethod, ...]:
        """The methods of the health service."""
        request = health_pb2.HealthCheckRequest
        return (
            PublicMethod(f"/{HEALTH_SERVICE}/Check", request, self._check),
            PublicMethod(f"/{HEALTH_SERVICE}/Watch", request, self._watch, lasting=True),
        )

    async def run(self) -> None:
        """Check the database regularly, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.check()

    def drain(self) -> None:
        """Report NOT_SERVING from now on, so that clients go elsewhere, and end the watches, which would never end."""
        self._ending = True
        self._report(False)  # noqa: FBT003 - `__init__` documents the argument
        self._set(_STATUS.NOT_SERVING)

    def _set(self, status: int) -> None:
        self._statuses = dict.fromkeys(self._services, status)
        for changed in self._watches:
            changed.set()

    async def _check(self, call: PublicCall, request: health_pb2.HealthCheckRequest) -> None:
        """Send the status of a service."""
        status = self._statuses.get(request.service)
        if status is None:
            raise StatusError(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        await call.write(_STATUS(status=status).SerializeToString())

    async def _watch(self, call: PublicCall, request: health_pb2.HealthCheckRequest) -> None:
        """Send the status of a service now and whenever it changes, until the server ends.

        No lock is held while it is sent, because a client that reads nothing would block the status of all.
        """
        changed = asyncio.Event()
        self._watches.add(changed)
        sent = None
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, _STATUS.SERVICE_UNKNOWN)
                if status != sent:
                    await call.write(_STATUS(status=status).SerializeToString())
                    sent = status
                elif self._ending:
                    raise StatusError(grpc.StatusCode.UNAVAILABLE, "The server is shutting down: connect again.")
                else:
                    await changed.wait()
        finally:
            self._watches.discard(changed)

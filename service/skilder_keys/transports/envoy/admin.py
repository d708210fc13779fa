"""Envoy's admin interface, over its socket: wait until Envoy is ready, read its metrics, and drain it."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import time
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from skilder_keys.transports.envoy.configuration import NOTICE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

_TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.05
_METRICS = "^(http\\.grpc\\.|listener\\.[^a]|cluster\\.grpcio\\.upstream_|server\\.(memory|uptime|concurrency))"
_DOCUMENTATION = "A statistic of Envoy: see its documentation."
_ACTIVE_NAMES = "^http\\.grpc\\.downstream_(cx|rq)_active$"
_ACTIVE = re.compile(r"downstream_(cx|rq)_active: (\d+)")


class Admin:
    """Envoy's admin interface."""

    def __init__(self, path: Path) -> None:
        """Take the path of its socket."""
        self._path = path

    async def ready(self) -> None:
        """Return when Envoy accepts connections. If it cannot listen, Envoy ends the process."""
        while not await self._ask("GET", "/ready"):  # noqa: ASYNC110 - Envoy offers no event to wait for
            await asyncio.sleep(_POLL_SECONDS)

    async def metrics(self) -> list[Metric]:
        """Return Envoy's own metrics, or an empty list if Envoy does not respond in the Prometheus format.

        Its histograms are left out: they are in milliseconds, and have 20 buckets. The service has its own.
        """
        text = await self._ask("GET", f"/stats/prometheus?usedonly&filter={_METRICS}")
        try:
            found = [each for each in text_string_to_metric_families(text or "") if each.type in {"counter", "gauge"}]
        except ValueError:
            return []
        for each in found:
            each.documentation = _DOCUMENTATION
        return found

    async def drain(self, seconds: float) -> None:
        """Make Envoy ask its clients to disconnect, and wait until they have, at most this many seconds.

        Envoy asks a client when it responds to its next call. A client that makes no more calls is not waited for.
        """
        began = time.monotonic()
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        await self._ask("POST", "/drain_listeners")  # accept no new connections from now on
        while (passed := time.monotonic() - began) < seconds:
            active = dict(_ACTIVE.findall(await self._ask("GET", f"/stats?filter={_ACTIVE_NAMES}") or ""))
            if active.get("cx", "0") == "0" or (active["rq"] == "0" and passed > 2 * NOTICE_SECONDS):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self, method: str, path: str) -> str | None:
        """Send a request, and return the body of the response, or None if it fails or its status is not OK."""
        return await asyncio.to_thread(self._request, method, path)

    def _request(self, method: str, path: str) -> str | None:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if response.status == http.HTTPStatus.OK else None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

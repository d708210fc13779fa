"""Envoy's console, over its socket: whether it serves, what it counts, and that it is to drain."""

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
_TOLD = "^(http\\.grpc\\.|listener\\.[^a]|cluster\\.grpcio\\.|server\\.(memory|uptime|concurrency))"
_ACTIVE_NAMES = "^http\\.grpc\\.downstream_(cx|rq)_active$"
_ACTIVE = re.compile(r"downstream_(cx|rq)_active: (\d+)")


class Admin:
    """Envoy's console."""

    def __init__(self, path: Path) -> None:
        """Takes its socket."""
        self._path = path

    async def ready(self) -> None:
        """Returns once Envoy accepts connections; it ends the process where it cannot."""
        while not await self._ask("GET", "/ready"):  # noqa: ASYNC110 - Envoy tells only who asks
            await asyncio.sleep(_POLL_SECONDS)

    async def metrics(self) -> list[Metric]:
        """Answers what Envoy counts, in Prometheus's terms; nothing where it does not tell, or in no such terms."""
        text = await self._ask("GET", f"/stats/prometheus?usedonly&filter={_TOLD}")
        try:
            return list(text_string_to_metric_families(text or ""))
        except ValueError:
            return []

    async def drain(self, seconds: float) -> None:
        """Has Envoy tell its clients to go; returns when they have, or after so many seconds.

        Envoy tells a client with the answer to its next call. One that makes no more calls is not waited for.
        """
        began = time.monotonic()
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        await self._ask("POST", "/drain_listeners")  # new ones go elsewhere at once
        while (passed := time.monotonic() - began) < seconds:
            active = dict(_ACTIVE.findall(await self._ask("GET", f"/stats?filter={_ACTIVE_NAMES}") or ""))
            if active.get("cx", "0") == "0" or (active["rq"] == "0" and passed > 2 * NOTICE_SECONDS):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self, method: str, path: str) -> str | None:
        """Answers what Envoy answers, or None where it says no, or nothing."""
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
        """Connects."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

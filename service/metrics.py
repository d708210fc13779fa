"""Metrics for Prometheus: what a worker tells of itself, and the endpoint at which the parent tells of all of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, TypedDict

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.address import ListenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

_HEAD_BYTES = 8192
_TIMEOUT_SECONDS = 5.0
_MAX_CONNECTIONS = 16


class Family(TypedDict):
    """The samples of one name, as they go from a worker to its parent; each has a name, labels and a value."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


def new_registry() -> CollectorRegistry:
    """Answers a registry of this process's own, which holds what there is to say of any process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def told(metrics: Iterable[Metric]) -> list[Family]:
    """Answers metrics in the form in which a worker tells them."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "unit": metric.unit,
            "samples": [(each.name, dict(each.labels), each.value) for each in metric.samples],
        }
        for metric in metrics
    ]


def merged(by_worker: Mapping[str, Iterable[Family]]) -> list[Metric]:
    """Answers the families of all workers, each sample with the label `worker`."""
    found: dict[str, Metric] = {}
    for worker, families in by_worker.items():
        for each in families:
            metric = found.setdefault(
                each["name"], Metric(each["name"], each["documentation"], each["type"], each["unit"])
            )
            # While workers are replaced by those of another version, a name may have two types: Prometheus takes one.
            if metric.type == each["type"]:
                for name, labels, value in each["samples"]:
                    metric.add_sample(name, {**labels, "worker": worker}, value)
    return list(found.values())


@asynccontextmanager
async def endpoint(address: str | None, collect: Callable[[], Awaitable[list[Metric]]]) -> AsyncIterator[str | None]:
    """Serves metrics on HOST:PORT and lends the address with the port that port 0 became; without one, does nothing.

    It is HTTP as far as a scrape needs it: a GET a connection, small, soon, and not many at once.

    Raises:
        ListenError: The address is taken, or not ours.
    """
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    places = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever is slow, or gone, or sends no request, is hung up on without a word.
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError), closing(writer):
            if not places.locked():
                async with places, asyncio.timeout(_TIMEOUT_SECONDS):
                    writer.write(await _response(await reader.readuntil(b"\r\n\r\n"), collect))
                    await writer.drain()

    try:
        server = await asyncio.start_server(answer, host.strip("[]"), int(port), limit=_HEAD_BYTES)
    except OSError as error:
        raise ListenError(f"Cannot serve metrics on {address}: {error.strerror or error}") from error
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _response(head: bytes, collect: Callable[[], Awaitable[list[Metric]]]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method != b"GET":
        return _http(HTTPStatus.METHOD_NOT_ALLOWED)
    if path not in {b"/metrics", b"/"}:
        return _http(HTTPStatus.NOT_FOUND)
    return _http(HTTPStatus.OK, generate_latest(_Collected(await collect())), CONTENT_TYPE_PLAIN_0_0_4)


def _http(status: HTTPStatus, body: bytes = b"", content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


class _Collected(Collector):
    """What was collected before, in the form in which the library asks for it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Answers it."""
        return self._metrics

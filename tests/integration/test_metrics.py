"""The metrics endpoint of the parent: the metrics of all workers together, whatever one of them does."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from skilder.keys.v1.catalog_service_pb2 import ListWorkspacesRequest
from skilder_keys.ipc.metrics import families_of
from skilder_keys.supervisor import metrics
from skilder_keys.transports.listening import ListenError
from tests.docs.links import ROOT
from tests.support.calls import METHODS
from tests.support.postgres import new_database
from tests.support.process import ServerProcess, serve_on_taken_address, serving_process
from tests.support.promtool import NEEDS_PROMTOOL, promtool
from tests.support.service import TRANSPORTS, Client
from tests.support.transport import GRPCIO_IF_SHORT, why_unavailable
from tests.support.workers import channel_to, operator_metadata, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

_LABELS = {
    "activity_dropped": {"reason"},
    "activity_fold_runs": {"outcome"},
    "caller_duration_seconds": {"caller"},
    "calls": {"method", "code"},
    "call_duration_seconds": {"method", "transport", "code"},
    "denials": {"reason"},
    "mode": {"mode"},
    "pool_connections": {"state"},
    "argon2": {"outcome"},
    "decision_log_records": {"outcome"},
    "unused_keys_runs": {"outcome"},
    "purge_runs": {"outcome"},
}
"""The labels of our metrics, besides `worker` and `le`; their values are few."""

SHARED_BY_GRPCIO = pytest.mark.parametrize("shared", ["grpcio"], indirect=True)
"""Marks a test that does not depend on the transport."""


@contextmanager
def serving(folder: Path, transport: str, database_url: str) -> Iterator[ServerProcess]:
    """Run a server with two workers and the endpoint."""
    with serving_process(
        folder,
        transport=transport,
        SKILDER_KEYS_DATABASE_URL=database_url,
        SKILDER_KEYS_WORKERS="2",
        SKILDER_KEYS_METRICS_LISTEN="127.0.0.1:0",
        SKILDER_KEYS_MAX_CONNECTION_AGE="1",
    ) as server:
        yield server


@pytest.fixture
def server(transport: str, database_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose workers a test may replace."""
    with serving(tmp_path, transport, database_url) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared server."""
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module", params=TRANSPORTS)
async def shared(
    request: pytest.FixtureRequest, postgres_url: str, template: str, folder: Path
) -> AsyncIterator[ServerProcess]:
    """A server that tests share, since they leave it as it was."""
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    async with new_database(postgres_url, template) as url:
        with serving(folder, request.param, url) as server:
            yield server


def place(server: ServerProcess) -> str:
    """Return the address of the endpoint."""
    assert server.address
    return str(server.events("serving")[0]["metrics"])


def text(server: ServerProcess) -> str:
    """Return what the endpoint responds."""
    with urllib.request.urlopen(f"http://{place(server)}/metrics", timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        body: bytes = response.read()
    return body.decode()


def samples(server: ServerProcess) -> dict[tuple[str, str], float]:
    """Return the values by name and worker."""
    families = text_string_to_metric_families(text(server))
    found = [each for family in families for each in family.samples]
    return {(each.name, each.labels.get("worker", "")): each.value for each in found}


def until(server: ServerProcess, **wanted: float) -> dict[tuple[str, str], float]:
    """Wait until the workers are up (1) or down (0) as wanted, and return the values."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = samples(server)
        if all(found["skilder_keys_worker_up", worker.removeprefix("w")] == up for worker, up in wanted.items()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not {wanted}: {found}")


@GRPCIO_IF_SHORT
def test_the_metrics_of_all_workers_are_in_one_response(shared: ServerProcess) -> None:
    """Each with its worker's label, together with the parent's own."""
    assert place(shared)
    found = samples(shared)
    pids = {str(index): worker.pid for index, worker in shared.workers().items()}
    assert {worker for name, worker in found if name == "process_resident_memory_bytes"} == set(pids) == {"0", "1"}
    started = {found["process_start_time_seconds", worker] for worker in pids}
    assert len(started) == 2
    assert found["skilder_keys_worker_up", "0"] == found["skilder_keys_worker_up", "1"] == 1
    assert found["skilder_keys_worker_restarts_total", ""] == 0


@GRPCIO_IF_SHORT
def test_a_frozen_or_killed_worker_is_down_and_delays_nobody(server: ServerProcess) -> None:
    """The others' metrics come soon, and its own come again when it responds."""
    assert place(server)
    frozen = server.workers()[1]
    frozen.suspend()
    for _ in range(3):
        began = time.monotonic()
        found = samples(server)
        assert time.monotonic() - began < 5, "far more than half a second, for a machine with much to do"
        assert found["skilder_keys_worker_up", "0"] == 1
        assert found["skilder_keys_worker_up", "1"] == 0
        assert ("process_resident_memory_bytes", "0") in found
        assert ("process_resident_memory_bytes", "1") not in found
    frozen.resume()
    until(server, w0=1, w1=1)
    frozen.kill()
    server.wait_for("worker started", worker=1)
    assert until(server, w0=1, w1=1)["skilder_keys_worker_restarts_total", ""] == 1


@SHARED_BY_GRPCIO
def test_the_endpoint_serves_nothing_else(shared: ServerProcess) -> None:
    """No other path, no other method and no malformed request; it serves on afterwards."""
    address = place(shared)
    for path, method, status in (("/x", "GET", 404), ("/metrics", "POST", 405), ("/x", "HEAD", 404)):
        request = urllib.request.Request(f"http://{address}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)  # noqa: S310 - the same
        assert caught.value.code == status
        caught.value.close()
    host, _, port = address.rpartition(":")
    for sent in (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"", b"GET /"):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(sent)
            if len(sent) < 100:
                connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):  # where the server does not read the whole request
                assert connection.recv(100) == b""
    assert samples(shared)


@SHARED_BY_GRPCIO
def test_idle_connections_are_closed_when_there_are_too_many(shared: ServerProcess) -> None:
    """The oldest ones make room, so that a real request is served."""
    host, _, port = place(shared).rpartition(":")
    waiting = [socket.create_connection((host, int(port)), timeout=60) for _ in range(40)]
    assert samples(shared)
    for connection in waiting:
        assert connection.recv(100) == b""
        connection.close()
    assert samples(shared)


async def test_envoys_counters_are_among_its_workers_metrics(
    request: pytest.FixtureRequest, shared: ServerProcess, folder: Path
) -> None:
    """Connections, calls and memory, once there are any. Without Envoy there are none."""
    assert await asyncio.to_thread(place, shared)
    wanted = {
        "envoy_http_downstream_cx_active": 1,
        "envoy_http_downstream_cx_total": 1,
        "envoy_http_downstream_rq_total": 2,
        "envoy_cluster_upstream_rq_total": 1,
    }
    async with AsyncExitStack() as stack:
        for worker in shared.workers().values():
            channel = await channel_to(worker, shared, stack)
            metadata = operator_metadata(shared, folder)
            assert await status_of(channel, metadata) is grpc.StatusCode.OK
            await Client(channel).catalog.ListWorkspaces(ListWorkspacesRequest(), metadata=metadata)
        found = await asyncio.to_thread(samples, shared)
    if request.node.callspec.params["shared"] != "envoy":
        assert [name for name, _ in found if name.startswith("envoy_")] == []
        return
    for index in ("0", "1"):
        assert found["envoy_server_memory_allocated", index] > 2**20
        # This worker may have had connections that were meant for the other one.
        assert {name: min(found[name, index], at_least) for name, at_least in wanted.items()} == wanted


@NEEDS_PROMTOOL
async def test_metrics_follow_the_conventions_of_prometheus(shared: ServerProcess, folder: Path) -> None:
    """Names, units and help texts, those of Envoy too."""
    async with AsyncExitStack() as stack:
        for worker in shared.workers().values():
            channel = await channel_to(worker, shared, stack)
            metadata = operator_metadata(shared, folder)
            assert await status_of(channel, metadata) is grpc.StatusCode.OK
        found = await asyncio.to_thread(text, shared)
    assert promtool("check", "metrics", stdin=found) == ""


async def test_every_metric_is_documented_and_its_labels_have_few_values(shared: ServerProcess, folder: Path) -> None:
    """Whatever callers send: the methods are those of the service."""
    async with AsyncExitStack() as stack:
        for worker in shared.workers().values():
            channel = await channel_to(worker, shared, stack)
            metadata = operator_metadata(shared, folder)
            for path in ("/x.Y/Z", "/skilder.keys.v1.AuthorizationService/Nothing"):
                call: Any = channel.unary_unary(path)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call(b"", metadata=metadata)
        families = list(text_string_to_metric_families(await asyncio.to_thread(text, shared)))
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    documented = set(
        re.findall(r"`skilder_keys_(\w+?)(?:_total)?(?:\{[\w, ]*\})?`", page.split("## What to do when")[0])
    )
    ours = {each.name.removeprefix("skilder_keys_"): each for each in families if each.name.startswith("skilder_keys_")}
    ours = {name: each for name, each in ours.items() if each.type != "unknown" and not name.endswith("_created")}
    assert set(ours) == documented
    for name, family in ours.items():
        labels = {label for each in family.samples for label in each.labels} - {"worker", "le"}
        assert labels <= _LABELS.get(name, set()), name
    methods = {each.labels["method"] for each in ours["calls"].samples}
    assert methods <= {
        *METHODS,
        "Authorization/Check",
        "Health/Check",
        "Health/Watch",
        "ServerReflection/ServerReflectionInfo",
    }


@GRPCIO_IF_SHORT
def test_a_draining_worker_is_counted_until_it_has_ended(server: ServerProcess) -> None:
    """Its successor counts from zero under the same label."""
    assert place(server)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("worker started", worker=0)
    found = samples(server)
    while ("process_resident_memory_bytes", "0-handover") not in found and not server.events("worker replaced"):
        found = samples(server)
    assert ("process_resident_memory_bytes", "0-handover") in found
    assert ("skilder_keys_worker_up", "0-handover") not in found
    server.wait_for("worker replaced", worker=1)
    assert {worker for name, worker in samples(server) if name == "process_resident_memory_bytes"} == {"0", "1"}


def test_a_metrics_address_that_is_taken_is_named(database_url: str, tmp_path: Path) -> None:
    """The server does not start without the metrics endpoint that it was given."""
    address, error = serve_on_taken_address(
        "SKILDER_KEYS_METRICS_LISTEN", folder=tmp_path, SKILDER_KEYS_DATABASE_URL=database_url
    )
    assert f"Cannot serve metrics on {address}" in error


def test_counts_of_two_workers_have_different_labels() -> None:
    """Also where a metric has a label of that name already, and where two versions disagree on a type."""
    registries = [CollectorRegistry(), CollectorRegistry()]
    for number, registry in enumerate(registries, 1):
        Counter("calls", "Calls.", ["method", "worker"], registry=registry).labels("Authorize", "x").inc(number)
    by_worker = {str(index): families_of(registry.collect()) for index, registry in enumerate(registries)}
    by_worker["2"] = [
        {"name": "calls", "documentation": "", "type": "gauge", "unit": "", "samples": [("calls", {}, 1.0)]}
    ]
    (family,) = metrics.merge(by_worker)
    totals = {each.labels["worker"]: each.value for each in family.samples if each.name == "calls_total"}
    assert (family.type, totals) == ("counter", {"0": 1.0, "1": 2.0})


async def test_a_failed_response_does_not_end_the_endpoint() -> None:
    """That connection is closed, and the next request is served."""
    failing = True

    async def collect() -> list[Metric]:
        if failing:
            raise OSError
        return []

    async with metrics.metrics_endpoint("localhost:0", collect) as address:
        assert address is not None
        host, _, port = address.rpartition(":")
        for expected in (b"", b"HTTP/1.1 200 OK\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert await reader.readline() == expected
            writer.close()
            await writer.wait_closed()
            failing = False
        with pytest.raises(ListenError):
            async with metrics.metrics_endpoint(address, collect):
                pass

"""The endpoint for probes that have no client certificate and speak no gRPC."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.process import ServerProcess, serve_on_taken_address, serving_process
from tests.support.running import postmaster, until_database_works
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Send one request, and return the status and the body of the response."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=60)
    try:
        connection.request(method, path, headers={"User-Agent": "kube-probe/1.34", "Connection": "close"})
        response = connection.getresponse()
        assert int(response.headers["Content-Length"]) > 0
        return response.status, response.read().decode()
    finally:
        connection.close()


def until_ready_is(address: str, wanted: tuple[int, str]) -> None:
    """Wait until `/readyz` responds as wanted."""
    end = time.monotonic() + 60
    while (found := ask(address, "/readyz")) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.05)


def health_address(server: ServerProcess) -> str:
    """Return the address of the endpoint, once the server serves."""
    assert server.address
    return str(server.events("serving")[0]["health"])


@pytest.mark.usefixtures("with_postgres_files")
@GRPCIO_IF_SHORT
def test_readiness_follows_the_workers_the_database_and_the_drain(transport: str, tmp_path: Path) -> None:
    """Liveness follows none of them."""
    with serving_process(
        tmp_path,
        transport=transport,
        SKILDER_KEYS_HEALTH_LISTEN="localhost:0",
        SKILDER_KEYS_WORKERS="2",
        SKILDER_KEYS_WORKER_TIMEOUT="0",
        SKILDER_KEYS_DRAIN_DELAY="600",
    ) as server:
        address = health_address(server)
        assert ask(address, "/healthz") == (200, "ok\n")
        assert ask(address, "/readyz") == (200, "ready\n")
        assert ask(address, "/readyz?verbose", "HEAD") == (200, "")
        assert ask(address, "/readyz", "POST") == (405, "use GET or HEAD\n")
        for path in ("/", "/metrics", "/healthz/", "//healthz"):
            assert ask(address, path) == (404, "there is /healthz and /readyz\n")

        workers = list(server.workers().values())
        postgres = postmaster(tmp_path / "data")
        database = [postgres, *postgres.children()]
        for frozen, reason in (
            (workers, "no worker serves"),
            (database, "no worker reaches the database"),
        ):
            for each in frozen:
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
            until_ready_is(address, (503, f"not ready: {reason}\n"))
            assert ask(address, "/readyz", "HEAD") == (503, "")
            assert ask(address, "/healthz") == (200, "ok\n")
            for each in frozen:
                with suppress(psutil.NoSuchProcess):
                    each.resume()
            until_ready_is(address, (200, "ready\n"))

        workers[0].suspend()
        time.sleep(4)
        assert ask(address, "/readyz") == (200, "ready\n"), "one worker is enough"
        workers[0].resume()

        server.process.send_signal(signal.SIGTERM)
        until_ready_is(address, (503, "not ready: the server drains\n"))
        until_database_works(server, tmp_path)
        assert ask(address, "/healthz") == (200, "ok\n")
        time.sleep(1)
        assert server.end() == 128 + signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            ask(address, "/healthz")


def test_probes_work_with_ipv4_and_ipv6_and_are_bounded(database_url: str, tmp_path: Path) -> None:
    """[::] serves IPv4 too. Idle connections and wrong requests keep no probe out."""
    with serving_process(
        tmp_path, SKILDER_KEYS_DATABASE_URL=database_url, SKILDER_KEYS_HEALTH_LISTEN="[::]:0"
    ) as server:
        port = int(health_address(server).rpartition(":")[2])
        for host in ("127.0.0.1", "[::1]"):
            assert ask(f"{host}:{port}", "/readyz") == (200, "ready\n")
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
        assert ask(f"127.0.0.1:{port}", "/readyz") == (200, "ready\n")
        for connection in waiting:
            assert connection.recv(100) == b""
            connection.close()
        for sent in (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000, b"\x16\x03\x01", b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    assert connection.recv(100)[:12] in {b"", b"HTTP/1.1 405"}
        assert ask(f"127.0.0.1:{port}", "/healthz") == (200, "ok\n")


def test_a_client_that_keeps_its_connection_open_leaves_no_error_in_the_log(database_url: str, tmp_path: Path) -> None:
    """The server closes the connection when it stops."""
    with serving_process(
        tmp_path, SKILDER_KEYS_DATABASE_URL=database_url, SKILDER_KEYS_HEALTH_LISTEN="127.0.0.1:0"
    ) as server:
        host, _, port = health_address(server).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as idle:
            assert ask(f"{host}:{port}", "/healthz") == (200, "ok\n")
            assert server.end() == 0
            assert idle.recv(100) == b""
        assert "Exception in callback" not in server.text()


def test_probes_are_off_by_default_and_a_taken_address_is_named(database_url: str, tmp_path: Path) -> None:
    """The server does not start without the probe endpoint that it was given."""
    address, error = serve_on_taken_address(
        "SKILDER_KEYS_HEALTH_LISTEN", folder=tmp_path, SKILDER_KEYS_DATABASE_URL=database_url
    )
    assert f"Cannot serve health on {address}: Address already in use" in error
    with serving_process(tmp_path, SKILDER_KEYS_DATABASE_URL=database_url) as server:
        assert "health" not in server.wait_for("serving")

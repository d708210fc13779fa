"""PgBouncer in front of a stock Postgres."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pytest

from tests.support.stock import StockServer, cluster_folder, free_port, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MISSING = "PgBouncer is needed, and was not found (Debian: apt-get install pgbouncer)"
_PATIENCE = 30.0


class Pooler:
    """A running PgBouncer. Make it with `pooler`."""

    def __init__(self, folder: Path, mode: Literal["transaction", "session"]) -> None:
        self._folder = folder
        self._mode = mode
        self._port = free_port()
        self._pid_file = folder / "pid"

    def url(self, database: str, user: str = "postgres") -> str:
        """Return the connection URI of a database behind it."""
        return f"postgresql://{user}@127.0.0.1:{self._port}/{database}"

    def configure(self, server: StockServer) -> None:
        """Write the configuration: as few server sessions as possible, shared by all clients."""
        (self._folder / "users").write_text("".join(f'"{user}" ""\n' for user in ("postgres", "serve")))
        (self._folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host={server.folder} port={server.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self._port}
            unix_socket_dir =
            auth_type = trust
            auth_file = {self._folder / "users"}
            pool_mode = {self._mode}
            pidfile = {self._pid_file}
            server_fast_close = 1
            default_pool_size = {3 if self._mode == "transaction" else 20}
            """.replace("    ", "")
        )

    def turn_to(self, server: StockServer) -> None:
        """Switch to another server; the clients' connections stay open."""
        self.configure(server)
        os.kill(int(self._pid_file.read_text()), signal.SIGHUP)

    @contextmanager
    def running(self, binary: str) -> Iterator[None]:
        """Run PgBouncer for the duration of the context."""
        log = self._folder / "log"
        process = spawn([binary, str(self._folder / "pgbouncer.ini")], log)
        try:
            end = time.monotonic() + _PATIENCE
            while not self._is_up():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.02)
            yield
            assert process.poll() is None, log.read_text()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_PATIENCE)

    def _is_up(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0


@contextmanager
def pooler(server: StockServer, mode: Literal["transaction", "session"] = "transaction") -> Iterator[Pooler]:
    """Yield a running PgBouncer, or skip the test where it is not installed."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip(MISSING)
    with cluster_folder() as folder:
        made = Pooler(folder, mode)
        made.configure(server)
        with made.running(binary):
            yield made

"""The environment of the cases: one Postgres, servers with a database each, and empty methods to compare with."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from bench.h2load import H2Load
from bench.load import ROOT, Generator, Target
from bench.openloop import OpenLoop
from bench.server import Server, Sql
from skilder_keys.auth.callers_file import local_operator
from skilder_keys.config import OPERATOR_TOKEN_FILE
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres
from tests.support.postgres import database_url
from tests.support.process import FRESH, run_command, serving_process
from tests.support.stock import StockServer, cluster_folder, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.rounds import Effort

_PATIENCE = 30.0


@dataclass(frozen=True)
class Postgres:
    """A running Postgres.

    Attributes:
        url: Its connection URL.
        process: The parent of its processes.
    """

    url: str
    process: psutil.Process

    @classmethod
    def of(cls, url: str, data: Path) -> Self:
        """Return the one that runs in a data folder."""
        lines = (data / "postmaster.pid").read_text("ascii").splitlines()
        return cls(url, psutil.Process(int(lines[0])))


class Environment:
    """The environment of the cases. Make it with `environment_of`.

    Attributes:
        effort: How much to measure.
        folder: The folder for all files.
        load: The load generator.
        h2load: A load generator for higher rates.
        open_loop: A load generator that calls about another key each time, and records every call.
        callers: The callers file with the caller of these two.
        token: The token of that caller.
        command: The command to measure, by default that of this version.
    """

    def __init__(self, folder: Path, effort: Effort, postgres: Postgres, command: Sequence[str | Path] = FRESH) -> None:
        self.effort = effort
        self.command = command
        self.folder = folder
        self._postgres = postgres
        # All servers share the folder of the operator's token, so that calls to all of them are the same.
        self._data = folder / "data"
        self._data.mkdir()
        local_operator(self._data / OPERATOR_TOKEN_FILE)
        self._token = (self._data / OPERATOR_TOKEN_FILE).read_text("ascii").strip()
        self.load = Generator(folder, self._token)
        # Everybody can read h2load's arguments, so it has a caller of its own that may only authorize.
        self.token = token = secrets.token_urlsafe(32)
        self.callers = folder / "callers.yaml"
        digest = hashlib.sha256(token.encode()).hexdigest()
        self.callers.write_text(
            json.dumps({"callers": [{"name": "h2load", "role": "service", "token_sha256": digest}]})
        )
        self.h2load = H2Load(folder, token)
        self.open_loop = OpenLoop(folder, token)

    @contextmanager
    def server(
        self,
        name: str,
        *,
        workers: int = 1,
        postgres: Postgres | None = None,
        again: bool = False,
        command: Sequence[str | Path] | None = None,
        **variables: str,
    ) -> Iterator[Server]:
        """Run `skilder-keys serve` on a separate database, in separate processes.

        Args:
            name: The name of the database.
            workers: How many workers serve.
            postgres: The Postgres of the database, by default that of the other servers.
            again: Whether the database exists from an earlier server.
            command: The command to run, by default the one to measure.
            variables: Settings.
        """
        postgres = postgres or self._postgres
        command = command or self.command
        with Sql(postgres.url) as sql:
            if not again:
                sql.execute(f"DROP DATABASE IF EXISTS {name}")
                sql.execute(f"CREATE DATABASE {name}")
        url = database_url(postgres.url, name)
        migrated = run_command("migrate", folder=self.folder, command=command, SKILDER_KEYS_DATABASE_URL=url)
        if migrated.returncode:
            raise RuntimeError(migrated.stderr)
        settings = {
            "SKILDER_KEYS_DATABASE_URL": url,
            "SKILDER_KEYS_DATA_DIR": str(self._data),
            "SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0",
            "SKILDER_KEYS_WORKERS": str(workers),
        }
        with serving_process(self.folder, command=command, **settings, **variables) as process:
            serving = process.wait_for("serving")
            target = Target(serving["address"], psutil.Process(process.process.pid), postgres.process)
            with Sql(url) as sql:
                yield Server(target, self._token, serving["metrics"], sql, url)

    @contextmanager
    def stock(self, **settings: str) -> Iterator[Postgres]:
        """Run the machine's stock Postgres with its own settings, except autovacuum, which would analyse tables."""
        with cluster_folder() as folder:
            server = StockServer.create(folder, fsync="on", **settings)
            with running(server):
                yield Postgres.of(server.url(), server.data)

    @contextmanager
    def transport(self, name: str, transport: str) -> Iterator[Server]:
        """Run a server with a transport, for h2load; connections have no maximum age while it measures."""
        with self.server(
            name,
            SKILDER_KEYS_TRANSPORT=transport,
            SKILDER_KEYS_MAX_CONNECTION_AGE="3600",
            SKILDER_KEYS_CALLERS=str(self.callers),
        ) as server:
            yield server

    @contextmanager
    def empty(self, body: bytes) -> Iterator[Target]:
        """Run an empty method that returns a body, in a separate process."""
        with self._serving("empty_server", str(self._written(body))) as target:
            yield target

    @contextmanager
    def empty_asgi(self, body: bytes, part: str = "empty") -> Iterator[Target]:
        """Run one of `empty_asgi.PARTS`, which returns a body, in a separate Envoy."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            self._serving("empty_asgi", part, str(self._written(body)), str(self.callers), folder) as target,
        ):
            _await_connections(target.address)
            yield target

    def _written(self, body: bytes) -> Path:
        file = self.folder / "body.bin"
        file.write_bytes(body)
        return file

    @contextmanager
    def _serving(self, module: str, *arguments: str) -> Iterator[Target]:
        """Run a module that prints its address, for the duration of the context; its errors go into a file."""
        command = [sys.executable, "-m", f"bench.{module}", *arguments]
        with (
            (self.folder / f"{module}.log").open("w") as log,
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                address = "" if process.stdout is None else process.stdout.readline().strip()
                if not address:
                    raise RuntimeError(f"{module} does not serve: {Path(log.name).read_text('utf-8')}")
                yield Target(address, psutil.Process(process.pid))
            finally:
                process.terminate()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


def _await_connections(address: str) -> None:
    """Wait until connections are accepted at an address, HOST:PORT."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), _PATIENCE):
            return
        if time.monotonic() > end:
            raise RuntimeError("the empty application does not accept connections")
        time.sleep(0.05)


@contextmanager
def environment_of(effort: Effort, command: Sequence[str | Path] = FRESH) -> Iterator[Environment]:
    """Run a Postgres in a temporary folder; both are removed on exit."""
    with tempfile.TemporaryDirectory(prefix="skilder-keys-bench-") as name:
        folder = Path(name)
        postgres = EmbeddedPostgres.start(folder / "postgres")
        try:
            yield Environment(folder, effort, Postgres.of(postgres.url(), folder / "postgres"), command)
        finally:
            postgres.stop()

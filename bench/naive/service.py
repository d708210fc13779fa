"""The naive application with two workers, on the database of the service and with its keys."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Self

import psutil

from bench.load import ROOT
from bench.openloop import Asked
from tests.support.stock import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.environment import Environment, Postgres, Sql
    from bench.seed import MadeKey

PYTHON = ROOT / "build" / "naive" / "bin" / "python"
MISSING = "the environment of the naive application was not found: `make build/naive/.ready` makes it"
_TABLE = "CREATE TABLE naive_key (digest bytea PRIMARY KEY, key_id uuid NOT NULL REFERENCES key)"
_OPTIONS = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error")
_CONNECTIONS = 64
_PATIENCE = 30.0


class NaiveService:
    """The running application."""

    def __init__(self, address: str, process: psutil.Process, postgres: Postgres) -> None:
        self._address = address
        self._processes = (process, postgres.process)

    @classmethod
    @contextmanager
    def running(cls, environment: Environment, postgres: Postgres, url: str, workers: int) -> Iterator[Self]:
        """Run it for the duration of the context."""
        if not PYTHON.exists():
            raise RuntimeError(MISSING)
        port = free_port()
        variables = {
            "SKILDER_BENCH_DATABASE_URL": url,
            "SKILDER_BENCH_CALLER_SHA256": hashlib.sha256(environment.token.encode()).hexdigest(),
        }
        command = [str(PYTHON), "-m", "uvicorn", "bench.naive.server:application", *_OPTIONS]
        with (
            (environment.folder / "naive.log").open("wb") as log,
            subprocess.Popen(
                [*command, "--port", str(port), "--workers", str(workers)],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                address = f"127.0.0.1:{port}"
                _await(address, environment.token)
                yield cls(address, psutil.Process(process.pid), postgres)
            finally:
                process.terminate()
                process.wait(_PATIENCE)

    def asked(self, requests: Sequence[bytes]) -> Asked:
        """Return calls over many connections, which the kernel gives to the workers."""
        return Asked(
            self._address,
            "/authorize",
            requests,
            self._processes,
            lambda ports: range(len(ports)),
            _CONNECTIONS,
            protocol="json",
        )


def add_keys(sql: Sql, keys: Sequence[MadeKey]) -> None:
    """Let the application know keys that the service has."""
    sql.execute(_TABLE)
    sql.copy("naive_key", ("digest", "key_id"), [(hashlib.sha256(key.token.encode()).digest(), key.id) for key in keys])
    sql.execute("VACUUM (ANALYZE) naive_key")


def asks(token: str, tool_id: str) -> bytes:
    """Return a call about one tool."""
    return json.dumps({"token": token, "tool_id": tool_id}).encode()


def _await(address: str, token: str) -> None:
    """Wait until a call is responded to."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        connection = HTTPConnection(address, timeout=_PATIENCE)
        with closing(connection), suppress(OSError):
            connection.request("POST", "/authorize", json.dumps({"token": "none"}), headers)
            if connection.getresponse().status == HTTPStatus.OK:
                return
        time.sleep(0.1)
    raise RuntimeError("the naive application does not serve")

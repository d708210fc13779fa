"""The naive application, on the database of a server and with its keys."""

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

from bench.load import ROOT, JsonCalls, Sample, Target
from bench.openloop import Asked
from skilder_keys.domain.token import Token
from tests.support.stock import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.environment import Environment
    from bench.server import Server, Sql

PYTHON = ROOT / "build" / "naive" / "bin" / "python"
MISSING = "the environment of the naive application was not found: `make build/naive/.ready` makes it"
_TABLE = """
    CREATE TABLE naive_key (
        sha256 bytea PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        workspace_id text NOT NULL,
        user_id text,
        description text NOT NULL,
        limited_to_hats boolean NOT NULL,
        created_at timestamptz NOT NULL,
        revoked_at timestamptz
    )
"""
# Nobody knows the tokens of most keys of a large database; any other digest will do.
_COPY = """
    INSERT INTO naive_key
    SELECT coalesce(known.sha256, sha256(key.id::text::bytea)), key.id, workspace_id, user_id, description,
           limited_to_hats, created_at, revoked_at
    FROM key LEFT JOIN known_token AS known USING (id)
"""
_OPTIONS = (
    *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"),
    # A machine that is busy with others must not end connections or workers.
    *("--timeout-keep-alive", "60", "--timeout-worker-healthcheck", "60"),
)
_CONNECTIONS = 64
_PATIENCE = 30.0


class NaiveService:
    """The running application.

    Attributes:
        target: The target of the load.
    """

    def __init__(self, target: Target, token: str) -> None:
        self.target = target
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    @classmethod
    @contextmanager
    def running(
        cls, environment: Environment, server: Server, tokens: Sequence[str], workers: int = 1, *, analyse: bool = True
    ) -> Iterator[Self]:
        """Run it for the duration of the context, on all keys of a server, of which it knows these tokens."""
        if not PYTHON.exists():
            raise RuntimeError(MISSING)
        _add_keys(server.sql, tokens, analyse=analyse)
        port = free_port()
        variables = {
            "SKILDER_BENCH_DATABASE_URL": server.url,
            "SKILDER_BENCH_CALLER_SHA256": hashlib.sha256(environment.token.encode()).hexdigest(),
        }
        command = [str(PYTHON), "-m", "uvicorn", "bench.naive.server:application", *_OPTIONS]
        with (
            (environment.folder / "naive.log").open("ab") as log,
            subprocess.Popen(
                [*command, "--port", str(port), "--workers", str(workers)],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                target = Target(f"127.0.0.1:{port}", psutil.Process(process.pid), server.target.database)
                service = cls(target, environment.token)
                service.await_ready()
                yield service
            finally:
                process.terminate()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()

    def asked(self, requests: Sequence[bytes], probes: Sequence[bytes] = ()) -> Asked:
        """Return calls over many connections, which the kernel gives to the workers."""
        return Asked(
            self.target.address,
            "/authorize",
            requests,
            (self.target.server, self.target.database),
            lambda ports: range(len(ports)),
            _CONNECTIONS,
            probes,
            protocol="json",
        )

    def each_once(self, environment: Environment, requests: Sequence[bytes], at_once: int) -> Sample:
        """Make each call once; all must be granted."""
        timeline = environment.open_loop.once(self.asked(requests), at_once)
        timeline.require_granted()
        took = sorted(call.took * 1000 for call in timeline.calls)
        return Sample(timeline.cpu * 1e6 / len(requests), 0.0, timeline.rate, took, took)

    def end_workers(self) -> None:
        """End all workers, and return when they have ended; others replace them."""
        workers = [each for each in self.target.server.children() if "spawn_main" in " ".join(each.cmdline())]
        for worker in workers:
            worker.terminate()
        psutil.wait_procs(workers, _PATIENCE)

    def await_ready(self) -> None:
        """Wait until a call is responded to."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with suppress(OSError), self.connection() as connection:
                self.response(connection, JsonCalls("/authorize", asks("none")))
                return
            time.sleep(0.1)
        raise RuntimeError("the naive application does not serve")

    @contextmanager
    def connection(self) -> Iterator[HTTPConnection]:
        """Return a connection, which closes when the context ends."""
        with closing(HTTPConnection(self.target.address, timeout=_PATIENCE)) as connection:
            yield connection

    def response(self, connection: HTTPConnection, calls: JsonCalls) -> bytes:
        """Make a call and return the body of its response."""
        connection.request("GET" if calls.body is None else "POST", calls.path, calls.body, self._headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"the naive application returned {response.status}: {body!r}")
        return body

    def size(self, calls: JsonCalls) -> int:
        """Return the bytes of a response, in which nothing may be denied."""
        with self.connection() as connection:
            body = self.response(connection, calls)
        if b'"granted":false' in body:
            raise RuntimeError(f"the naive application denied a good token: {body!r}")
        return len(body)


def asks(token: str, tool_id: str | None = None) -> bytes:
    """Return a call about one tool, or about all."""
    return json.dumps({"token": token, "tool_id": tool_id}).encode()


def _add_keys(sql: Sql, tokens: Sequence[str], *, analyse: bool) -> None:
    """Let the application know all keys that the service has."""
    sql.execute("DROP TABLE IF EXISTS naive_key")
    sql.execute(_TABLE)
    sql.execute("CREATE TEMPORARY TABLE known_token (id uuid PRIMARY KEY, sha256 bytea NOT NULL)")
    rows = [(Token.parse(token).key_id, hashlib.sha256(token.encode()).digest()) for token in tokens]
    sql.copy("known_token", ("id", "sha256"), rows)
    sql.execute("ANALYZE known_token")
    sql.execute(_COPY)
    sql.execute("DROP TABLE known_token")
    sql.execute("CREATE INDEX ON naive_key (workspace_id, created_at)")
    if analyse:
        sql.execute("VACUUM (ANALYZE) naive_key")

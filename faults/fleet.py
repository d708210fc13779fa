"""What a run runs on: one Postgres, a server beside it, and a second server behind a network that can fail."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from faults.history import now
from faults.postgres import Postgres, monotonic, send
from skilder_keys.storage.migrations import migrate
from tests.support.forked import Forked
from tests.support.lengths import by_form
from tests.support.process import COMMAND, environment
from tests.support.proxy import Proxy
from tests.support.running import worker_processes
from tests.support.service import write_callers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from faults.counts import Counted

ROOT = Path(__file__).parents[1]
NEAR, FAR = "near", "far"
"""The servers: the far one reaches Postgres through the proxy."""

# The short form saves the time that it takes to load the service.
_START: type[subprocess.Popen[bytes]] = by_form(Forked, subprocess.Popen)
_WORKERS = {NEAR: 2, FAR: 1}
_END_SECONDS = 20.0
# What the service logs when counts of activity are lost: by the worker, or by the parent of a worker that it killed.
_LOSSES = ("activity is lost", "a worker is frozen: killing it", "a worker did not end in time: it was killed")
# In the forms that the service logs, that Python and pyvoy write, and that Rust and Envoy write.
_MARKS_OF_FAULTS = (
    '"exception": ',
    "Traceback",
    "Exception in ASGI",
    " panicked at ",
    "Caught Segmentation",
    "assert failure",
)


class Server:
    """A server in separate processes: a parent, and its workers.

    Attributes:
        killed: When a worker was killed, once for each.
    """

    def __init__(self, name: str, transport: str, command: list[str], folder: Path, database_url: str) -> None:
        """Make a server with the command that serves, its transport, and a folder for its data and log."""
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.address, self.metrics_address = (f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other))
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._variables = environment(
            {
                "SKILDER_KEYS_LISTEN": self.address,
                "SKILDER_KEYS_TRANSPORT": transport,
                "SKILDER_KEYS_METRICS_LISTEN": self.metrics_address,
                "SKILDER_KEYS_DATABASE_URL": database_url,
                "SKILDER_KEYS_DATA_DIR": str(folder / name),
                "SKILDER_KEYS_CALLERS": str(folder / "callers.yaml"),
                "SKILDER_KEYS_WORKERS": str(_WORKERS[name]),
                "SKILDER_KEYS_LOG_FORMAT": "json",
                "SKILDER_KEYS_DRAIN_TIMEOUT": "1",
                # So that there are many flushes and folds in a short run.
                "SKILDER_KEYS_ACTIVITY_INTERVAL": "0.5",
                "SKILDER_KEYS_ACTIVITY_FOLD_INTERVAL": "1",
                # Connections that lost their worker moved to another one. They end early, so the new worker gets some.
                "SKILDER_KEYS_MAX_CONNECTION_AGE": "3",
                "PYTHONPATH": str(ROOT),
            }
        )
        self.killed: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._left: list[psutil.Process] = []

    def start(self) -> None:
        """Start the server unless it runs."""
        if self._process is None or self._process.poll() is not None:
            with self.log.open("ab") as log:
                self._process = _START(self._command, cwd=ROOT, env=self._variables, stderr=log)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        try:
            return worker_processes(self._parent())
        except psutil.NoSuchProcess:
            return []

    def reload(self) -> None:
        """Replace the workers, one after the other."""
        send(self._parent(), signal.SIGHUP)

    def kill_worker(self, worker: psutil.Process) -> None:
        """Kill a worker; its parent starts another."""
        send(worker, signal.SIGKILL)
        self.killed.append(now())

    def losses(self) -> list[int]:
        """Return when it reported that counts of activity are lost."""
        marks = [f'"message": "{each}"' for each in _LOSSES]
        texts = self.log.read_text("utf-8").splitlines()
        lines = (json.loads(line) for line in texts if any(mark in line for mark in marks))
        return [monotonic(datetime.fromisoformat(line["timestamp"])) for line in lines]

    def kill(self, *, workers: bool = True) -> None:
        """Kill the parent; with its workers, this is like a loss of power."""
        with suppress(psutil.NoSuchProcess):
            parent = self._parent()
            children = parent.children()
            send(parent, signal.SIGKILL)
            for child in children if workers else ():
                self.kill_worker(child)
            self._left += children

    def end(self) -> None:
        """Stop the server, and wait for its end."""
        if self._process is None:
            return
        for worker in (*self.workers(), *self._left):
            send(worker, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            raise
        finally:
            # Workers end by themselves when their parent was killed.
            psutil.wait_procs(self._left, _END_SECONDS)

    def _parent(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)


class Fleet:
    """All servers and their Postgres. Servers that end are started again, as a platform would do."""

    def __init__(self, postgres: Postgres, proxy: Proxy, servers: list[Server]) -> None:
        self.postgres = postgres
        self.proxy = proxy
        self.servers = {server.name: server for server in servers}
        self._keeping: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the servers."""
        return {name: server.address for name, server in self.servers.items()}

    def tracebacks(self) -> list[str]:
        """Return the log lines with a traceback: errors of ours, which no outage explains."""
        return [
            f"{server.name}: {line}"
            for server in self.servers.values()
            for line in server.log.read_text("utf-8").splitlines()
            if any(mark in line for mark in _MARKS_OF_FAULTS)
        ]

    def state(self) -> str:
        """Return which parts run."""
        servers = [f"{server.name} has {len(server.workers())} workers" for server in self.servers.values()]
        return "\n".join([*servers, self.postgres.state()])

    async def heal(self) -> None:
        """End every running fault."""
        self.proxy.resume()
        for server in self.servers.values():
            for worker in server.workers():
                send(worker, signal.SIGCONT)
        await asyncio.to_thread(self.postgres.start)

    def begin(self) -> None:
        """Start the servers, and start them again whenever they end."""
        self._keeping = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Stop the servers, and wait for their end. Nothing happens the second time."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        self._keeping = None
        try:
            await self.heal()
        finally:
            await asyncio.gather(*(asyncio.to_thread(server.end) for server in self.servers.values()))

    async def activity(self) -> Counted:
        """Return what was counted as activity. The servers must have ended."""
        ends = [end for server in self.servers.values() for end in (*server.killed, *server.losses())]
        return await self.postgres.activity(ends)

    async def _keep(self) -> None:
        while True:
            for server in self.servers.values():
                server.start()
            await asyncio.sleep(0.5)


@asynccontextmanager
async def running_fleet(folder: Path, transport: str, mutations: Mapping[str, str]) -> AsyncIterator[Fleet]:
    """Run the fleet with servers of one transport; the workers of a server with a mutation have that mistake."""
    write_callers(folder / "callers.yaml", [])
    postgres = await asyncio.to_thread(Postgres, folder / "postgres")
    try:
        await migrate(postgres.url)
        proxy = Proxy(postgres.socket)
        async with proxy.serving():
            far_url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
            urls = {NEAR: postgres.url, FAR: far_url}
            fleet = Fleet(
                postgres,
                proxy,
                [Server(name, transport, _command(mutations.get(name)), folder, url) for name, url in urls.items()],
            )
            fleet.begin()
            try:
                yield fleet
            finally:
                await fleet.end()
    finally:
        await asyncio.to_thread(postgres.end)


def _command(mutation: str | None) -> list[str]:
    command = [str(COMMAND), "serve"] if mutation is None else [str(ROOT / "faults" / "serve.py"), mutation]
    return [sys.executable, *command] if _START is subprocess.Popen else command

"""The Postgres of a run, which is killed and comes back."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil

from skilder_keys.app.audit_check import check as check_audit
from skilder_keys.storage.tool_sessions import snapshot
from skilder_keys.storage.url import DEFAULT_SCHEMA
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres

_SESSION_SECONDS = 5.0
_LINES = 12


class Postgres:
    """An embedded Postgres.

    Attributes:
        url: Its connection URL.
        socket: The Unix socket that it listens on.
    """

    def __init__(self, folder: Path) -> None:
        """Start a Postgres in a folder with its files, or in one that does not exist yet."""
        self._folder = folder
        self._running = EmbeddedPostgres.start(folder)
        # Threads kill and start Postgres, and a run that has ended does not wait for them.
        self._turn = threading.Lock()
        self.url = self._running.url()
        self.socket = Path(parse_qs(urlsplit(self.url).query)["host"][0]) / ".s.PGSQL.5432"

    def start(self) -> None:
        """Start it again unless it runs."""
        with self._turn:
            if not self._running.is_running():
                self._running.restart()

    def kill(self) -> None:
        """Kill all its processes and wait for their end; until its keeper has noticed, Postgres still seems to run."""
        with self._turn:
            if not self._running.is_running():
                return
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(int((self._folder / "postmaster.pid").read_text("ascii").splitlines()[0]))
                for process in (parent, *parent.children()):
                    send(process, signal.SIGKILL)
            self._running.quit()

    def state(self) -> str:
        """Return whether it runs, and the last lines of its log."""
        last = (self._folder / "log").read_text("utf-8", "replace").splitlines()[-_LINES:]
        return "\n  ".join([f"Postgres {'runs' if self._running.is_running() else 'does not run'}:", *last])

    def crash(self, session: int) -> None:
        """Kill one backend, after which Postgres ends all others and recovers by itself."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(session)
            if process.name() == "postgres":
                send(process, signal.SIGKILL)

    def end(self) -> None:
        """Stop Postgres."""
        self._running.stop()

    async def sessions(self, pattern: str) -> list[int]:
        """Return the backends of connections whose name is LIKE a pattern."""
        connection = await asyncpg.connect(self.url, timeout=_SESSION_SECONDS)
        try:
            rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1", pattern)
            return [row["pid"] for row in rows]
        finally:
            await connection.close(timeout=_SESSION_SECONDS)

    async def audit_findings(self) -> list[str]:
        """Return what is wrong with the audit trail, as `audit verify` says it."""
        async with snapshot(self.url, DEFAULT_SCHEMA, "skilder-keys faults") as connection:
            return [
                f"{found.workspace_id}: {found.words}"
                async for each in check_audit(connection, (), ())
                for found in each.findings
            ]

    async def terminate(self, sessions: list[int]) -> None:
        """End connections, as an administrator can."""
        connection = await asyncpg.connect(self.url, timeout=_SESSION_SECONDS)
        try:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", sessions)
        finally:
            await connection.close(timeout=_SESSION_SECONDS)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process if it still exists."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)

"""The Postgres of a run, which is killed and comes back."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil

from faults.counts import GRANTED, Counted, Place, Writer
from skilder_keys.app.audit_check import check as check_audit
from skilder_keys.app.enums import DENIAL_REASONS
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.tool_sessions import snapshot
from skilder_keys.storage.url import DEFAULT_SCHEMA
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres
from tests.support.activity import fold_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_SESSION_SECONDS = 5.0
_LINES = 12
_REASONS = {number: reason.name for reason, number in DENIAL_REASONS.items()}
# The clients of a run are one caller. Calls of another one would be found at a key with its name, which nobody made.
_COUNTS = """
    SELECT CASE caller.name WHEN 'service' THEN activity_key.key_id::text ELSE caller.name END AS key,
           CASE fact.tool WHEN 0 THEN '' ELSE coalesce(activity_tool.id, '*') END AS tool, outcome, sum(count) AS count
    FROM activity_minute AS fact JOIN activity_key ON activity_key.number = fact.key
    JOIN activity_caller AS caller ON caller.number = fact.caller
    LEFT JOIN activity_tool ON activity_tool.number = fact.tool
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT CASE caller.name WHEN 'service' THEN '' ELSE caller.name END, '', outcome, sum(count)
    FROM activity_unproven AS fact JOIN activity_caller AS caller ON caller.number = fact.caller
    GROUP BY 1, outcome
"""


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

    async def until_counted(self, rows: int, seconds: float) -> None:
        """Wait until some rows are added to the journal of activity, for at most this long."""
        connection = await asyncpg.connect(self.url, timeout=_SESSION_SECONDS)
        try:
            written = "SELECT last_value FROM activity_journal_id_seq"
            before = await connection.fetchval(written)
            end = time.monotonic() + seconds
            while await connection.fetchval(written) < before + rows and time.monotonic() < end:
                await asyncio.sleep(0.01)
        finally:
            await connection.close(timeout=_SESSION_SECONDS)

    async def activity(self, ends: Sequence[int]) -> Counted:
        """Return what the activity tables have when the rest of the journal is folded. No worker may run any more.

        Args:
            ends: When workers were killed, or reported that they lost counts.
        """
        database = await Database.open(DatabaseOptions(self.url, pool_size=1))
        try:
            while (folded := await fold_all(database)) is None or folded.rows:
                pass
            async with database.snapshot() as snapshot:
                rows = await snapshot.fetch(_COUNTS)
                writers = await snapshot.fetch("SELECT counted_until, seen_at FROM activity_writer")
        finally:
            await database.close()
        counts = {
            Place(row["key"], row["tool"], _REASONS[row["outcome"]] if row["outcome"] else GRANTED): int(row["count"])
            for row in rows
        }
        return Counted(counts, [Writer(monotonic(until), monotonic(seen)) for until, seen in writers], ends)

    async def terminate(self, sessions: list[int]) -> None:
        """End connections, as an administrator can."""
        connection = await asyncpg.connect(self.url, timeout=_SESSION_SECONDS)
        try:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", sessions)
        finally:
            await connection.close(timeout=_SESSION_SECONDS)


def monotonic(at: datetime) -> int:
    """Return a time of Postgres, which runs on this machine, by the clock of the clients."""
    return int(at.timestamp() * 1e9) + time.monotonic_ns() - time.time_ns()


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process if it still exists."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)

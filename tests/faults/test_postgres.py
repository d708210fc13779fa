"""The Postgres of a run is in the state that the faults put it in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import asyncpg

from faults.postgres import Postgres
from tests.support.postgres_files import copy_postgres


async def test_a_postgres_killed_and_started_at_once_runs(postgres_files: Path) -> None:
    """Also during recovery, and again and again. A start without effect would leave it down for good."""
    with tempfile.TemporaryDirectory(prefix="skilder-keys-faults-") as name:
        copy_postgres(postgres_files, Path(name))
        postgres = Postgres(Path(name) / "postgres")
        try:
            for _ in range(3):
                connection = await asyncpg.connect(postgres.url)
                postgres.crash(connection.get_server_pid())
                postgres.kill()
                connection.terminate()
                assert postgres.state().startswith("Postgres does not run")
                postgres.start()
                assert postgres.state().startswith("Postgres runs")
                connection = await asyncpg.connect(postgres.url)
                await connection.close()
        finally:
            postgres.end()

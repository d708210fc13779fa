"""The Postgres of a run is where the faults have it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import asyncpg

from faults.postgres import Postgres


async def test_one_that_is_killed_and_started_at_once_runs() -> None:
    """Also in the middle of a recovery, and again and again: a start that does nothing would leave it away for good."""
    with tempfile.TemporaryDirectory(prefix="skilder-keys-faults-") as name:
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

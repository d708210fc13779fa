"""The files of an embedded Postgres, migrated: made once for all processes of a run and copied, as that is faster."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from pathlib import Path


def made_once(folder: Path) -> Path:
    """Return a data folder with the files. The first process that asks makes it, and others wait."""
    made, done = folder / "new-postgres", folder / "new-postgres.done"
    with (folder / "new-postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(made, ignore_errors=True)  # an earlier attempt may have failed
            postgres = EmbeddedPostgres.start(made / "postgres")
            try:
                with ThreadPoolExecutor(1) as thread:  # this one may run a loop
                    thread.submit(asyncio.run, migrate(postgres.url())).result()
            finally:
                postgres.stop()
            done.touch()
    return made


def copy_postgres(source: Path, target: Path) -> None:
    """Copy the files from one data folder to another one, with their owner."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", source / "postgres", target / "postgres"], check=True)  # noqa: S607 - wherever cp is

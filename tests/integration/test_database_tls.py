"""TLS to Postgres: the certificate is checked as the URL asks, and channel binding is never claimed without a check."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg
import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.certificates import Authority
from tests.support.stock import StockServer, cluster_folder, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of the server."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stock(authority: Authority) -> Iterator[StockServer]:
    """A server that accepts only TLS over TCP, with a certificate for 127.0.0.1 and for no name."""
    with cluster_folder() as folder:
        server = StockServer.create(folder)
        issued = authority.issue("server", "IP:127.0.0.1")
        server.serve_tls(issued.certificate.read_bytes(), issued.key.read_bytes())
        with running(server):
            yield server


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the Postgres files and variables of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


async def is_encrypted(url: str) -> bool:
    """Connect as the service does, and return whether the server sees TLS."""
    database = await Database.open(DatabaseOptions(url))
    try:
        async with database.connection() as connection:
            return bool(await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    finally:
        await database.close()


def url(server: StockServer, host: str, query: str, authority: Authority) -> str:
    """Return a URL of the server. ROOT in the query stands for the file of its authority."""
    root = quote(str(authority.root.certificate), safe="")
    return server.tcp_url().replace("@127.0.0.1:", f"@{host}:") + "?" + query.replace("ROOT", root)


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "sslmode=prefer"),
        ("127.0.0.1", "sslmode=require"),
        ("127.0.0.1", "ssl=true&channel_binding=prefer"),
        ("localhost", "sslmode=verify-ca&sslrootcert=ROOT"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=ROOT"),
        ("127.0.0.1", "sslmode=require&channel_binding=require&sslrootcert=ROOT"),
    ],
)
async def test_a_url_that_the_certificate_satisfies_connects(
    stock: StockServer, authority: Authority, host: str, query: str
) -> None:
    """Encrypted each time."""
    assert await is_encrypted(url(stock, host, query, authority))


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "sslmode=disable"),
        ("localhost", "sslmode=verify-full&sslrootcert=ROOT"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=system"),
        ("127.0.0.1", "sslmode=require&channel_binding=require"),
        ("localhost", "channel_binding=require&sslrootcert=ROOT"),
    ],
)
async def test_a_url_that_the_certificate_does_not_satisfy_is_refused(
    stock: StockServer, authority: Authority, host: str, query: str
) -> None:
    """The error names the problem, the host and the port, and has no password."""
    with pytest.raises(UnavailableError) as caught:
        await is_encrypted(url(stock, host, query, authority))
    words = str(caught.value.__cause__)
    assert words.startswith(f"{host}:{stock.port}: ")
    assert "certificate" in words or "no encryption" in words or "no pg_hba.conf entry" in words
    assert stock.password not in words


async def test_environment_variables_do_not_change_the_connection(
    stock: StockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell may be set up for another database; the URL alone decides."""
    variables = {"PGHOST": "db.invalid", "PGPORT": "1", "PGDATABASE": "other", "PGUSER": "other"}
    for name, value in {**variables, "PGTARGETSESSIONATTRS": "standby", "PGSSLMODE": "verify-full"}.items():
        monkeypatch.setenv(name, value)
    assert not await is_encrypted(stock.url())
    assert await is_encrypted(stock.tcp_url() + "?sslmode=require")
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await asyncpg.connect(stock.url(), ssl=False)

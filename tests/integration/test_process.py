"""The real command: starting, stopping, refusing to start, and what survives."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from tests.support.postgres import new_database
from tests.support.process import ServerProcess, run_command, serving_process
from tests.support.service import Client
from tests.support.waiting import until_running
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg


@pytest.fixture
def on_database(database_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on the test's database."""
    with serving_process(tmp_path, SKILDER_KEYS_DATABASE_URL=database_url) as server:
        yield server


def operator_metadata(server: ServerProcess, folder: Path) -> tuple[tuple[str, str]]:
    """Answers the metadata of the local operator, once the server serves."""
    assert server.address
    token = (folder / "data" / "operator-token").read_text("ascii").strip()
    return (("authorization", f"Bearer {token}"),)


def test_the_embedded_database_survives_restarts_and_crashes(tmp_path: Path) -> None:
    """A workspace is there after SIGTERM, and again after kill -9, which leaves Postgres running behind."""
    for number, signal_ in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGINT)):
        with serving_process(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
            catalog = CatalogServiceStub(channel)
            metadata = operator_metadata(server, tmp_path)
            known = catalog.ListWorkspaces(catalog_service_pb2.ListWorkspacesRequest(), metadata=metadata).workspaces
            assert [each.id for each in known] == [f"w{each}" for each in range(number)]
            request = catalog_service_pb2.ApplyWorkspaceRequest(workspace=small_workspace(f"w{number}"))
            catalog.ApplyWorkspace(request, metadata=metadata)
            assert server.end(signal_) == (-signal.SIGKILL if signal_ is signal.SIGKILL else 0)
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


async def test_sigterm_lets_a_running_call_end(
    on_database: ServerProcess, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """A revoke that waits for a lock when the signal comes is answered before the process ends."""
    metadata = operator_metadata(on_database, tmp_path)
    async with grpc.aio.insecure_channel(on_database.address) as channel:
        client = Client(channel)
        await client.catalog.ApplyWorkspace(
            catalog_service_pb2.ApplyWorkspaceRequest(workspace=small_workspace()), metadata=metadata
        )
        request = key_service_pb2.IssueKeyRequest(
            type=key_pb2.KEY_TYPE_WORKSPACE, workspace_id="acme", description="Bot"
        )
        issued = await client.keys.IssueKey(request, metadata=metadata)
        async with sql.transaction():
            await sql.execute("SELECT FROM key FOR UPDATE")
            revoking = client.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=issued.key.id), metadata=metadata)
            await until_running(sql, 1)
            on_database.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(on_database.wait_for, "draining")
        assert (await revoking).key.HasField("revoked_at")
    assert await asyncio.to_thread(on_database.wait) == 0
    on_database.wait_for("stopped")


def test_the_operators_token_is_kept_from_others(on_database: ServerProcess, tmp_path: Path) -> None:
    """The first start makes it, mode 0600; a start where others may read it is refused."""
    assert on_database.address
    path = tmp_path / "data" / "operator-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text("ascii").strip() not in on_database.text()
    path.chmod(0o640)
    refused = run_command(
        "serve", folder=tmp_path, SKILDER_KEYS_LISTEN="127.0.0.1:0", SKILDER_KEYS_DATABASE_URL="postgresql:///nothing"
    )
    assert refused.returncode == 70
    assert "others than its owner may read it" in refused.stderr


def test_a_second_server_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    """Two servers with one embedded Postgres would end it for each other."""
    with serving_process(tmp_path) as server:
        assert server.address
        second = run_command("serve", folder=tmp_path, SKILDER_KEYS_LISTEN="127.0.0.1:0")
        assert second.returncode == 70
        assert "Another skilder-keys serves from data" in second.stderr


def test_an_address_that_is_taken_is_named(database_url: str, tmp_path: Path) -> None:
    """The error tells which address, and leaves no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = run_command(
            "serve", folder=tmp_path, SKILDER_KEYS_LISTEN=address, SKILDER_KEYS_DATABASE_URL=database_url
        )
    assert refused.returncode == 70
    assert f"Cannot serve on {address}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_database_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Serve and migrate end with the exit code for unavailable, and keep the password to themselves."""
    url = "postgresql://keys:hunter2@127.0.0.1:1/keys"
    for command in ("serve", "migrate"):
        refused = run_command(command, folder=tmp_path, SKILDER_KEYS_DATABASE_URL=url)
        assert refused.returncode == 6, refused
        assert "hunter2" not in refused.stderr
        assert "Traceback" not in refused.stderr


async def test_serve_asks_for_the_migrations_and_migrate_runs_them(postgres_url: str, tmp_path: Path) -> None:
    """On a given database, nothing changes its schema but `migrate`."""
    async with new_database(postgres_url) as url:
        variables = {"SKILDER_KEYS_DATABASE_URL": url, "SKILDER_KEYS_LISTEN": "127.0.0.1:0"}
        refused = await asyncio.to_thread(run_command, "serve", folder=tmp_path, **variables)
        assert refused.returncode == 70
        assert "run `skilder-keys migrate`" in refused.stderr
        first = await asyncio.to_thread(run_command, "migrate", folder=tmp_path, **variables)
        assert (first.returncode, first.stdout) == (0, "ran 0001 keys_and_workspaces\n")
        second = await asyncio.to_thread(run_command, "migrate", folder=tmp_path, **variables)
        assert (second.returncode, second.stdout) == (0, "up to date\n")

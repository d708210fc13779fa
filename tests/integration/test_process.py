"""The real command: how it starts, stops and refuses to start, and what survives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from skilder.keys.v1 import authorization_service_pb2, catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.storage.migrations import migrations
from tests.support.postgres import new_database
from tests.support.process import (
    COMMAND,
    ServerProcess,
    environment,
    run_command,
    serve_on_taken_address,
    serving_process,
)
from tests.support.running import until_database_works
from tests.support.service import Client
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.waiting import until_running
from tests.support.workers import operator_metadata
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg


@pytest.fixture
def on_database(transport: str, database_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on the test's database."""
    with serving_process(tmp_path, transport=transport, SKILDER_KEYS_DATABASE_URL=database_url) as server:
        yield server


@pytest.mark.usefixtures("with_postgres_files")
@GRPCIO_IF_SHORT
def test_the_embedded_database_survives_restarts_and_crashes(transport: str, tmp_path: Path) -> None:
    """A workspace is there after SIGTERM, and after kill -9, which leaves Postgres running."""
    for number, signal_ in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGINT)):
        with serving_process(tmp_path, transport=transport) as server, grpc.insecure_channel(server.address) as channel:
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
    """A revoke that waits for a lock when the signal comes gets its response before the process ends."""
    metadata = operator_metadata(on_database, tmp_path)
    async with grpc.aio.insecure_channel(on_database.address) as channel:
        client = Client(channel)
        await client.catalog.ApplyWorkspace(
            catalog_service_pb2.ApplyWorkspaceRequest(workspace=small_workspace()), metadata=metadata
        )
        request = key_service_pb2.IssueKeyRequest(
            type=key_pb2.KEY_TYPE_WORKSPACE,
            workspace_id="acme",
            description="Bot",
            unlimited=[key_pb2.KEY_LIMIT_HATS],
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


@GRPCIO_IF_SHORT
def test_the_operators_token_is_kept_from_others(transport: str, on_database: ServerProcess, tmp_path: Path) -> None:
    """The first start makes it with mode 0600; a start where others may read it is refused."""
    assert on_database.address
    path = tmp_path / "data" / "operator-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text("ascii").strip() not in on_database.text()
    path.chmod(0o640)
    refused = run_command(
        "serve",
        folder=tmp_path,
        SKILDER_KEYS_LISTEN="127.0.0.1:0",
        SKILDER_KEYS_DATABASE_URL="postgresql:///nothing",
        SKILDER_KEYS_TRANSPORT=transport,
    )
    assert refused.returncode == 70
    assert "others than its owner may read it" in refused.stderr


@pytest.mark.usefixtures("with_postgres_files")
def test_a_second_server_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    """Two servers with one embedded Postgres would stop it for each other."""
    with serving_process(tmp_path) as server:
        assert server.address
        second = run_command("serve", folder=tmp_path, SKILDER_KEYS_LISTEN="127.0.0.1:0")
        assert second.returncode == 70
        assert "Another skilder-keys serves from data" in second.stderr


def test_an_address_that_is_taken_is_named(database_url: str, tmp_path: Path) -> None:
    """The error names the address, and there is no traceback."""
    address, error = serve_on_taken_address(
        "SKILDER_KEYS_LISTEN", folder=tmp_path, SKILDER_KEYS_DATABASE_URL=database_url
    )
    assert f"Cannot serve on {address}" in error


@GRPCIO_IF_SHORT
def test_a_missing_database_is_reported(transport: str, tmp_path: Path) -> None:
    """`serve` and `migrate` end with the exit code for unavailable, and do not show the password."""
    url = "postgresql://keys:hunter2@127.0.0.1:1/keys"
    for command in ("serve", "migrate"):
        refused = run_command(command, folder=tmp_path, SKILDER_KEYS_DATABASE_URL=url, SKILDER_KEYS_TRANSPORT=transport)
        assert refused.returncode == 6, refused
        assert "hunter2" not in refused.stderr
        assert "Traceback" not in refused.stderr


@GRPCIO_IF_SHORT
async def test_serve_asks_for_the_migrations_and_migrate_runs_them(
    transport: str, postgres_url: str, tmp_path: Path
) -> None:
    """On a database of one's own only `migrate` changes the schema."""
    async with new_database(postgres_url) as url:
        variables = {
            "SKILDER_KEYS_DATABASE_URL": url,
            "SKILDER_KEYS_LISTEN": "127.0.0.1:0",
            "SKILDER_KEYS_TRANSPORT": transport,
        }
        refused = await asyncio.to_thread(run_command, "serve", folder=tmp_path, **variables)
        assert refused.returncode == 70
        assert "run `skilder-keys migrate`" in refused.stderr
        first = await asyncio.to_thread(run_command, "migrate", folder=tmp_path, **variables)
        reported = "".join(f"ran {each.number:04} {each.name}\n" for each in migrations())
        assert (first.returncode, first.stdout) == (0, reported)
        second = await asyncio.to_thread(run_command, "migrate", folder=tmp_path, **variables)
        assert (second.returncode, second.stdout) == (0, "up to date\n")


@pytest.mark.usefixtures("with_postgres_files")
def test_a_stale_pid_file_harms_nobody(tmp_path: Path) -> None:
    """After a crash its number may be that of any process, which is left alone; Postgres starts."""
    with serving_process(tmp_path) as server:
        assert server.address
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n{pid_file.parent}\n1\n5432\n{pid_file.parent}\n\n1 1\nready\n")
        with serving_process(tmp_path) as server:
            assert server.address
        assert bystander.poll() is None
        bystander.kill()


def test_an_interrupted_postgres_files_is_repaired(tmp_path: Path) -> None:
    """What a killed initdb left behind is removed."""
    unfinished = tmp_path / "data" / "postgres.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18")
    with serving_process(tmp_path) as server:
        assert server.address
    assert not unfinished.exists()


@pytest.mark.usefixtures("with_postgres_files")
def test_an_embedded_database_that_crashes_is_started_again(tmp_path: Path) -> None:
    """After kill -9 of Postgres, calls work again without help."""
    with serving_process(tmp_path) as server:
        assert server.address
        os.kill(int((tmp_path / "data" / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        server.wait_for("the embedded Postgres is gone: starting it again")
        until_database_works(server, tmp_path)


@GRPCIO_IF_SHORT
@pytest.mark.usefixtures("with_postgres_files")
def test_a_frozen_database_does_not_block_the_stop(transport: str, tmp_path: Path) -> None:
    """SIGTERM ends the server in bounded time, though uses are pending and Postgres does not respond."""
    with serving_process(
        tmp_path, transport=transport, SKILDER_KEYS_USAGE_INTERVAL="300", SKILDER_KEYS_DRAIN_TIMEOUT="1"
    ) as server:
        with grpc.insecure_channel(server.address) as channel:
            metadata = operator_metadata(server, tmp_path)
            apply = catalog_service_pb2.ApplyWorkspaceRequest(workspace=small_workspace())
            CatalogServiceStub(channel).ApplyWorkspace(apply, metadata=metadata)
            issue = key_service_pb2.IssueKeyRequest(
                type=key_pb2.KEY_TYPE_WORKSPACE,
                workspace_id="acme",
                description="Bot",
                unlimited=[key_pb2.KEY_LIMIT_HATS],
            )
            token = KeyServiceStub(channel).IssueKey(issue, metadata=metadata).token
            for _ in range(2):
                AuthorizationServiceStub(channel).Authorize(
                    authorization_service_pb2.AuthorizeRequest(token=token), metadata=metadata
                )
        postmaster = psutil.Process(int((tmp_path / "data" / "postgres" / "postmaster.pid").read_text().split()[0]))
        frozen = [postmaster, *postmaster.children()]
        for process in frozen:
            process.suspend()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopped")
        for process in frozen:
            process.resume()
        assert server.wait() == 0


@GRPCIO_IF_SHORT
def test_a_log_that_cannot_be_written_fails_no_call(transport: str, database_url: str, tmp_path: Path) -> None:
    """When the disk is full, calls work as before."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = environment(
        {"SKILDER_KEYS_LISTEN": address, "SKILDER_KEYS_DATABASE_URL": database_url, "SKILDER_KEYS_TRANSPORT": transport}
    )
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen([COMMAND, "serve"], cwd=tmp_path, env=variables, stderr=full) as process,
    ):
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
            token = (tmp_path / "data" / "operator-token").read_text("ascii").strip()
            for _ in range(3):
                CatalogServiceStub(channel).ListWorkspaces(
                    catalog_service_pb2.ListWorkspacesRequest(), metadata=(("authorization", f"Bearer {token}"),)
                )
        process.terminate()
        assert process.wait(60) == 0

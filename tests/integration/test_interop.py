"""The client with which gRPC implementations test each other, against the Envoy transport."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder_keys.transports.envoy.admin import Admin
from skilder_keys.transports.envoy.configuration import admin_socket
from tests.support.certificates import Authority
from tests.support.http2 import connected, framed
from tests.support.interop import pb
from tests.support.transport import why_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "build" / "bin" / "grpc-interop-client"
HOST = "keys.example"
CASES = [
    "empty_unary",
    "large_unary",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "rpc_soak",
    "channel_soak",
]


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[int]:
    """Serve the test service in an Envoy, and yield the port."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    # The path of a socket must be short, and pytest's folders may have long ones.
    with tempfile.TemporaryDirectory(prefix="skilder-keys-tests-") as folder:
        reported = json.dumps({"listen": f"127.0.0.1:{port}", **settings})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.interop", folder, reported, cwd=ROOT
        )
        ready = asyncio.create_task(Admin(admin_socket(Path(folder))).ready())
        ended = asyncio.create_task(process.wait())
        try:
            done, _ = await asyncio.wait((ready, ended), timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert done == {ready}, "it does not serve"
            yield port
        finally:
            ready.cancel()
            if not ended.done():
                process.kill()
            await ended


@pytest.fixture(scope="module", params=["plaintext", "TLS"])
async def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """The client's command without the case: over plaintext and over TLS."""
    if not CLIENT.exists():
        if os.environ.get("CI"):
            pytest.fail("gRPC's interop client is needed, and was not found: run `make tools`")
        pytest.skip("gRPC's interop client is needed, and was not found: run `make tools`, which needs Go")
    command = [str(CLIENT), "--server_host=127.0.0.1"]
    settings = {}
    if request.param == "TLS":
        authority = Authority(tmp_path_factory.mktemp("certificates"), "authority")
        server = authority.issue("server", f"DNS:{HOST}")
        settings = {"tls_cert": str(server.certificate), "tls_key": str(server.key)}
        command += [
            "--use_tls",
            "--use_test_ca",
            f"--ca_file={authority.root.certificate}",
            f"--server_host_override={HOST}",
        ]
    async with serving(**settings) as port:
        yield [*command, f"--server_port={port}"]


@pytest.mark.parametrize("case", CASES)
async def test_an_interop_case_passes(client: list[str], case: str) -> None:
    """As judged by gRPC's client for Go."""
    command = [*client, f"--test_case={case}"]
    done = await asyncio.to_thread(
        subprocess.run, command, timeout=60, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


async def test_a_status_message_arrives_unchanged() -> None:
    """Also where it looks as if it were percent-encoded already."""
    words = "100 %, %41 and %zz; tab\tand line\r\n, \N{SNOWMAN} and \N{ROBOT FACE}"
    status = pb.EchoStatus(code=grpc.StatusCode.ABORTED.value[0], message=words)
    request = pb.SimpleRequest(response_status=status).SerializeToString()
    async with serving() as port, connected(f"127.0.0.1:{port}") as connection:
        stream = connection.call("/grpc.testing.TestService/UnaryCall")
        await stream.send(framed(request), end=True)
        response = await stream.response()
    assert (response.code, response.details) == (grpc.StatusCode.ABORTED, words)

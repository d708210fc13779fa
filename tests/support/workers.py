"""Clients of a server with several workers: a connection to each worker, and a load that records every lost call."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import psutil

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from tests.support.lengths import by_form
from tests.support.service import Client
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.process import ServerProcess

# Without this option, all channels of a process to one address share one connection, and so one worker.
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
_TRIES = 100
# The load of the short form leaves the processor to the server, which starts workers meanwhile.
_PAUSE = by_form(0.03, 0.0)


def operator_metadata(server: ServerProcess, folder: Path) -> tuple[tuple[str, str]]:
    """Return the metadata of the local operator once the server serves."""
    assert server.address
    token = (folder / "data" / "operator-token").read_text("ascii").strip()
    return (("authorization", f"Bearer {token}"),)


async def issued(channel: grpc.aio.Channel, metadata: Any) -> key_service_pb2.IssueKeyResponse:
    """Apply the small workspace and return one of its keys."""
    client = Client(channel)
    apply = catalog_service_pb2.ApplyWorkspaceRequest(workspace=small_workspace())
    await client.catalog.ApplyWorkspace(apply, metadata=metadata)
    request = key_service_pb2.IssueKeyRequest(
        type=key_pb2.KEY_TYPE_WORKSPACE,
        workspace_id="acme",
        description="Bot",
        unlimited=[key_pb2.KEY_LIMIT_HATS],
    )
    response: key_service_pb2.IssueKeyResponse = await client.keys.IssueKey(request, metadata=metadata)
    return response


async def channel_to(worker: psutil.Process, server: ServerProcess, stack: AsyncExitStack) -> grpc.aio.Channel:
    """Return a channel that is connected to a given worker. Linux assigns connections to workers at random."""
    port = int(server.address.rpartition(":")[2])
    for _ in range(_TRIES):
        before = _connections(worker, port)
        async with AsyncExitStack() as attempt:
            channel = grpc.aio.insecure_channel(server.address, options=[OWN_CONNECTION])
            await attempt.enter_async_context(channel)
            async with asyncio.timeout(60):
                await channel.channel_ready()
            # When the channel is ready the worker has accepted the connection, so the process shows it.
            if _connections(worker, port) - before:
                await stack.enter_async_context(attempt.pop_all())
                return channel
    raise AssertionError(f"none of {_TRIES} connections went to worker {worker}")


def _connections(worker: psutil.Process, port: int) -> set[object]:
    found = worker.net_connections("tcp")
    return {each.raddr for each in found if each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED}


async def status_of(channel: grpc.aio.Channel, metadata: Any) -> grpc.StatusCode:
    """Return the status of a call that needs a known caller and no database."""
    stub: Any = AuthorizationServiceStub(channel)
    code: grpc.StatusCode = await stub.Authorize(pb.AuthorizeRequest(token="no token"), metadata=metadata).code()
    return code


@dataclass
class Load:
    """The results of a load.

    Attributes:
        granted: How many calls were granted.
        lost: How many calls were not granted, by status and message, or by the reason of the denial.
        connections: The least number of connections that were made.
    """

    granted: int = 0
    connections: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    async def ask(self, channel: grpc.aio.Channel, metadata: Any, token: str) -> None:
        """Make one call."""
        stub: Any = AuthorizationServiceStub(channel)
        try:
            response = await stub.Authorize(pb.AuthorizeRequest(token=token), metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            self.lost[f"{error.code().name}: {error.details()}"] += 1
            return
        if response.granted.WhichOneof("reach") == "tool_set":
            self.granted += 1
        else:
            self.lost[f"denied: {response.denied.message}"] += 1


@asynccontextmanager
async def load(
    server: ServerProcess, metadata: Any, token: str, *, channels: int, newcomers: int
) -> AsyncIterator[Load]:
    """Make calls all the time for the duration of the context. No call is retried or waits for a server.

    Args:
        server: The server to call.
        metadata: The credentials of the caller.
        token: The token of a good key, to authorize.
        channels: How many connections are kept, with four concurrent calls each.
        newcomers: How many clients make a new connection for each call.
    """
    result = Load()
    over = False

    async def keep_calling() -> None:
        async with grpc.aio.insecure_channel(server.address, options=[OWN_CONNECTION]) as channel:
            result.connections += 1

            async def one_after_another() -> None:
                while not over:
                    await result.ask(channel, metadata, token)
                    await asyncio.sleep(_PAUSE)

            await asyncio.gather(*(one_after_another() for _ in range(4)))

    async def keep_coming() -> None:
        while not over:
            async with grpc.aio.insecure_channel(server.address, options=[OWN_CONNECTION]) as channel:
                result.connections += 1
                await result.ask(channel, metadata, token)
            await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(channels):
            group.create_task(keep_calling())
        for _ in range(newcomers):
            group.create_task(keep_coming())
        try:
            yield result
        finally:
            over = True

"""Proxies in environment variables: they see no connection to this machine."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import by_form

if TYPE_CHECKING:
    from tests.environment.conftest import Surroundings


HOSTS = ["127.0.0.1", "localhost", "127.1.2.3"]
VARIABLES = ["http_proxy", "https_proxy", "grpc_proxy"]
EACH = list(product(HOSTS, VARIABLES))


@pytest.mark.parametrize(("host", "variable"), by_form(list(zip(HOSTS, VARIABLES, strict=True)), EACH))
async def test_loopback_is_reached_directly(surroundings: Surroundings, variable: str, host: str) -> None:
    """The operator's token goes over this connection."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    proxy = await asyncio.start_server(note, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        server = f"{host}:{surroundings.service.address.rpartition(':')[2]}"
        done = await surroundings.run(
            "workspace", "list", "--server", server, **{variable: f"http://127.0.0.1:{port}", "no_proxy": ""}
        )
    # The service listens on 127.0.0.1 only, so another loopback address refuses; the proxy sees neither connection.
    assert (done.returncode, seen) == (6 if host == "127.1.2.3" else 0, []), done.stderr


async def test_other_machines_are_reached_through_the_proxy(surroundings: Surroundings) -> None:
    """As gRPC does by default."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    proxy = await asyncio.start_server(note, "127.0.0.1", 0)
    async with proxy:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        done = await surroundings.run("workspace", "list", "--tls", "--server", "192.0.2.1:443", http_proxy=address)
    assert done.returncode == 6
    assert seen
    assert all(each.startswith(b"CONNECT 192.0.2.1:443") for each in seen)

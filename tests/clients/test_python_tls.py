"""The Python client over TLS, with client certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from skilder_keys_client import AsyncClient, Client, Connection, Decision, Denied, Query, ServiceError
from tests.support.certificates import Authority
from tests.support.lengths import LONG
from tests.support.service import serving, write_callers

SAN = "spiffe://acme.example/gateway"


def contents(**files: str | Path) -> dict[str, bytes]:
    """Return the contents of files."""
    return {name: Path(file).read_bytes() for name, file in files.items()}


async def outcome(address: str, **fields: Any) -> set[str]:
    """Return what both clients make of a connection."""
    connection = Connection(address, **fields)
    query = Query("a-token", tool_id="a.x")

    def blocking() -> Decision:
        with Client(connection) as client:
            return client.authorize(query, timeout=5)

    found = set()
    async with AsyncClient(connection) as client:
        for each in (client.authorize(query, timeout=5), asyncio.to_thread(blocking)):
            try:
                decided = await each
            except ServiceError as error:
                found.add(f"{error.code.name}, outage: {error.is_outage}")
            else:
                assert isinstance(decided, Denied)
                found.add(decided.reason)
    return found


@pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")
async def test_only_the_right_certificates_connect(database_url: str, transport: str, tmp_path: Path) -> None:
    """Everything else is an outage, never a denial."""
    authority = Authority(tmp_path, "authority")
    server, gateway = authority.issue("server", "IP:127.0.0.1"), authority.issue("gateway", f"URI:{SAN}")
    write_callers(tmp_path / "callers.yaml", [{"name": "gateway", "role": "service", "san": SAN}])
    root = authority.root.certificate
    own = contents(certificate=gateway.certificate, private_key=gateway.key)
    trusted = contents(root_certificates=root)
    async with serving(
        database_url,
        tmp_path,
        transport=transport,
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=root,
    ) as service:
        assert await outcome(service.address, **trusted, **own) == {"MALFORMED"}
        port = service.address.rpartition(":")[2]
        unavailable = {"UNAVAILABLE, outage: True"}
        for address, fields in (
            (service.address, trusted),  # no certificate of its own
            (service.address, own),  # an authority that it does not know
            (f"localhost:{port}", trusted | own),  # another name than the certificate's
            (service.address, {"plaintext": True}),
        ):
            assert await outcome(address, **fields) == unavailable, address

"""The client for TypeScript over TLS, with client certificates."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority
from tests.support.lengths import LONG
from tests.support.service import serving, write_callers
from tests.support.typescript_client import TYPESCRIPT_CLIENT

if TYPE_CHECKING:
    from pathlib import Path

SAN = "spiffe://acme.example/gateway"
RESULTS = """\
certificate denied MALFORMED
no certificate UNAVAILABLE
unknown authority UNAVAILABLE
another name UNAVAILABLE
plaintext UNAVAILABLE
"""


@pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")
async def test_only_the_right_certificates_connect(database_url: str, transport: str, tmp_path: Path) -> None:
    """Everything else is an outage, never a denial."""
    folder = await asyncio.to_thread(TYPESCRIPT_CLIENT.built)
    authority = Authority(tmp_path, "authority")
    server, gateway = authority.issue("server", "IP:127.0.0.1"), authority.issue("gateway", f"URI:{SAN}")
    write_callers(tmp_path / "callers.yaml", [{"name": "gateway", "role": "service", "san": SAN}])
    root = authority.root.certificate
    async with serving(
        database_url,
        tmp_path,
        transport=transport,
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=root,
    ) as service:
        files = map(str, (root, gateway.certificate, gateway.key))
        command = [*TYPESCRIPT_CLIENT.run(folder, "tls"), service.address, *files]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", RESULTS)

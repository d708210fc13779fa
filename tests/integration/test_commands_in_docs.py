"""The commands and the code in the documents, run as a reader would. test_walk.py runs those of the README."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from skilder_keys.auth.callers_file import load_callers
from tests.docs.links import DOCUMENTS, ROOT
from tests.support import grpcurl
from tests.support.certificates import Authority
from tests.support.lengths import by_form
from tests.support.process import serving_process
from tests.support.service import TOKENS, serving
from tests.support.walk import reader_variables, shell, steps
from tests.support.workspaces import EXAMPLE_FILE

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"

PREPARED = {
    "api.md": "",
    "callers.md": "",
    "command-line.md": (
        "skilder-keys workspace apply acme.yaml; skilder-keys keys issue -w acme --all-hats Bot >bot.token"
    ),
    "leaks.md": (
        "skilder-keys workspace apply acme.yaml; rm acme.yaml; mkdir deploy; (echo A=1; echo -n TOKEN=;"
        " skilder-keys keys issue -w acme --all-hats Bot) >deploy/bot.env; git init"
    ),
}
"""The pages whose commands run here, with commands that come before them."""


RUN_ELSEWHERE = {"http.md", "operations.md"}
"""The pages whose commands another test runs."""


def test_every_page_with_commands_is_tested() -> None:
    """A test runs the commands of each such page."""
    with_commands = {path.name for path in DOCUMENTS if path.is_relative_to(DOCS) and steps(path.read_text("utf-8"))}
    assert with_commands - RUN_ELSEWHERE == set(PREPARED)


@pytest.mark.long
@pytest.mark.parametrize("page", by_form(["api.md", "callers.md", "leaks.md"], list(PREPARED)))
@pytest.mark.usefixtures("with_postgres_files")
def test_the_commands_of_a_page_work(page: str, tmp_path: Path) -> None:
    """One after another, with the output that the page shows. The short form leaves out the longest page."""
    walk = steps((DOCS / page).read_text("utf-8"))
    text = "".join(step.commands for step in walk)
    if "grpcurl" in text:
        grpcurl.required()
    if "openssl" in text and shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
    shutil.copy(EXAMPLE_FILE, tmp_path / "acme.yaml")
    with ExitStack() as stack:
        server = stack.enter_context(serving_process(tmp_path, SKILDER_KEYS_METRICS_LISTEN="127.0.0.1:0"))
        variables = reader_variables(server.address)
        variables["SKILDER_KEYS_METRICS"] = server.events("serving")[0]["metrics"]
        session = stack.enter_context(shell(tmp_path, variables))
        session.run(PREPARED[page])
        for step in walk:
            session.take(step.at(server.address))


async def test_the_client_of_the_api_page_works(database_url: str, tmp_path: Path) -> None:
    """The Python code runs unchanged, except for the address and the certificate authority."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "api.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    authority = Authority(tmp_path, "authority")
    server = authority.issue("server", "DNS:localhost")
    (tmp_path / "docs").symlink_to(DOCS)
    (tmp_path / "gateway.token").write_text(TOKENS["service"])
    options = {"tls_cert": server.certificate, "tls_key": server.key}
    async with serving(database_url, tmp_path, transport="grpcio", **options) as service:
        port = service.address.rpartition(":")[2]
        variables = reader_variables(service.address) | {
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.root.certificate),
            "PYTHONPATH": str(ROOT / "generated"),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code.replace("keys.example.com:443", f"localhost:{port}")),
            cwd=tmp_path,
            env=variables,
        )
        assert await process.wait() == 0
        assert await service.metric("calls_total", method="AuthorizationService/Authorize", code="OK") == 1


def test_the_callers_file_of_the_callers_page_is_read(tmp_path: Path) -> None:
    """With every caller in it."""
    page = (DOCS / "callers.md").read_text("utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    path = tmp_path / "callers.yaml"
    path.write_text(text)
    assert [each.caller.name for each in load_callers(path)] == ["console", "gateway"]

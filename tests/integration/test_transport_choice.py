"""`--transport auto`, the default: the real command uses Envoy where it is installed, else grpcio, and logs why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from structlog import get_logger

from skilder.keys.v1.catalog_service_pb2 import ListWorkspacesRequest
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.config import Settings
from skilder_keys.supervisor import supervisor
from skilder_keys.supervisor.worker_process import StartError
from skilder_keys.transports.choice import Choice
from tests.support.process import FRESH, serving_process
from tests.support.transport import why_unavailable
from tests.support.workers import operator_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.process import ServerProcess

MISSING = "The Envoy transport is not installed: pip install 'skilder-keys[envoy]'."


def chosen(server: ServerProcess, folder: Path) -> tuple[str, str]:
    """Return the transport and the reason that the log of a serving server names."""
    with grpc.insecure_channel(server.address) as channel:
        call = CatalogServiceStub(channel).ListWorkspaces
        assert not call(ListWorkspacesRequest(), metadata=operator_metadata(server, folder)).workspaces
    (line,) = server.events("serving")
    return line["transport"], line["transport_reason"]


def test_auto_uses_envoy_where_it_is_installed(database_url: str, tmp_path: Path) -> None:
    """Also from a folder with a long path that has spaces."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    folder = tmp_path / "with spaces" / ("x" * 200)
    folder.mkdir(parents=True)
    with serving_process(folder, transport="auto", SKILDER_KEYS_DATABASE_URL=database_url) as server:
        assert chosen(server, folder) == ("envoy", "Envoy is installed")
        assert server.end() == 0


def test_auto_uses_grpcio_where_envoy_is_not_installed(database_url: str, tmp_path: Path) -> None:
    """The log says how to install Envoy."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pyvoy.py").write_text("raise ImportError\n")
    variables = {"SKILDER_KEYS_DATABASE_URL": database_url, "PYTHONPATH": str(hidden)}
    with serving_process(tmp_path, transport="auto", command=FRESH, **variables) as server:
        assert chosen(server, tmp_path) == ("grpcio", MISSING)
        assert server.end() == 0


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (None, "The Envoy transport needs Python's shared library, libpython3."),
        ("libpython3.so", "Envoy does not run here: "),
    ],
    ids=["none", "one that cannot be loaded"],
)
def test_auto_uses_grpcio_where_python_has_no_shared_library(
    database_url: str, tmp_path: Path, library: str | None, reason: str
) -> None:
    """As in a container with a statically linked Python; the log names the package to install."""
    if unavailable := why_unavailable("envoy"):
        pytest.skip(unavailable)
    (tmp_path / "libpython3.so").write_text("no library")
    found = [str(tmp_path / library)] if library else []
    (tmp_path / "find_libpython.py").write_text(f"def candidate_paths():\n    return iter({found})\n")
    variables = {"SKILDER_KEYS_DATABASE_URL": database_url, "PYTHONPATH": str(tmp_path)}
    with serving_process(tmp_path, transport="auto", command=FRESH, **variables) as server:
        transport, given = chosen(server, tmp_path)
        assert transport == "grpcio"
        assert given.startswith(reason)
        assert server.end() == 0


def test_json_is_not_left_out_where_envoy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails and says why, instead of serving less than was asked for."""
    monkeypatch.setattr(supervisor, "choose", lambda _wanted: Choice("grpcio", MISSING))
    with pytest.raises(StartError, match="http_json needs the transport envoy, which cannot be used: The Envoy"):
        supervisor.run(Settings(http_json=True), get_logger())

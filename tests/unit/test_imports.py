"""What a process loads before it works: each start of it costs that much CPU time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.transport import why_unavailable


def loaded(code: str) -> set[str]:
    """Return the modules that a new process has loaded after running some code."""
    code = f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


def test_a_process_that_becomes_envoy_loads_little() -> None:
    """What it loads is lost when Envoy takes over, and Envoy's own Python loads it again."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    found = loaded(
        "import skilder_keys.worker.__main__\nfrom skilder_keys.transports.envoy.process import installed\ninstalled()"
    )
    assert "skilder_keys.envoy_settings" in found
    assert found.isdisjoint({"asyncio", "asyncpg", "google", "grpc", "pydantic", "pyvoy", "structlog", "typer", "yaml"})


@pytest.mark.parametrize("module", ["skilder_keys.worker.in_envoy", "skilder_keys.worker.process"])
def test_a_worker_does_not_load_what_only_the_command_needs(module: str) -> None:
    """It gets its settings from the parent."""
    found = loaded(f"import {module}")
    assert {"asyncpg", "structlog"} <= found
    assert found.isdisjoint({"rich", "typer"})


@pytest.mark.parametrize("command", ["--version", "serve", "migrate"])
def test_a_command_that_calls_no_service_loads_no_grpc(command: str) -> None:
    """Each command is loaded when it is used; `serve` and `migrate` fail here at an option, after they were loaded."""
    arguments = [command] if command == "--version" else [command, "--database-schema", "!"]
    found = loaded(
        "from contextlib import suppress\n"
        "from skilder_keys.cli.main import app\n"
        f"with suppress(SystemExit):\n    app({arguments})"
    )
    assert "skilder_keys.cli.main" in found
    assert ("skilder_keys.cli.serve" in found) == (command != "--version")
    assert found.isdisjoint({"asyncpg", "google.protobuf", "grpc", "structlog", "yaml"})


def test_the_parent_loads_neither_grpc_nor_yaml() -> None:
    """Only workers serve calls, and read the callers file."""
    found = loaded("import skilder_keys.cli.serve, skilder_keys.cli.service")
    assert "skilder_keys.supervisor.supervisor" in found
    assert found.isdisjoint({"google.protobuf", "grpc", "skilder_keys.rpc", "skilder_keys.worker", "yaml"})

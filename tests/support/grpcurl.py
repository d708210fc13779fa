"""grpcurl, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(_ROOT / "build" / "bin"), os.environ.get("PATH", "")])
"""Where to look for grpcurl: the folder of `make tools`, and the PATH."""


def required() -> str:
    """Return the path of grpcurl. Without it, fail in CI and skip the test elsewhere."""
    found = shutil.which("grpcurl", path=PATH)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("grpcurl is not installed: run `make tools`")
        pytest.skip("grpcurl is not installed: run `make tools`, which needs Go")
    return found


def grpcurl(address: str, method: str, request: str, token: str, seconds: float | None = None) -> str:
    """Call a method of the service and return the response as JSON.

    Args:
        address: The address of the service.
        method: The method.
        request: The request, as JSON.
        token: The bearer token.
        seconds: For a stream that lasts: after how many seconds to end it. Then all its responses are returned.
    """
    options = ["-plaintext", "-expand-headers", "-H", "authorization: Bearer ${TOKEN}", "-d", "@"]
    if seconds is not None:
        options += ["-max-time", str(seconds)]
    done = subprocess.run(
        [required(), *options, address, f"skilder.keys.v1.{method}"],
        input=request,
        env=os.environ | {"TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if seconds is not None:
        assert "DeadlineExceeded" in done.stderr, done.stderr
        return done.stdout
    assert done.returncode == 0, done.stderr
    return done.stdout

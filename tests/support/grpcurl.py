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


def grpcurl(address: str, method: str, request: str, token: str) -> str:
    """Call a method of the service and return the response as JSON."""
    options = ["-plaintext", "-expand-headers", "-H", "authorization: Bearer ${TOKEN}", "-d", "@"]
    done = subprocess.run(
        [required(), *options, address, f"skilder.keys.v1.{method}"],
        input=request,
        env=os.environ | {"TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

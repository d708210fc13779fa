"""The package for Python: its stubs, and what a user installs."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from pathlib import Path

from tests.support.clients import PYTHON_SOURCES
from tests.support.stubs import ROOT

PACKAGE = PYTHON_SOURCES / "skilder_keys_client"


def test_the_stubs_are_up_to_date(tmp_path: Path) -> None:
    """If they are not, run `make stubs-python`."""
    package = tmp_path / "skilder_keys_client"
    subprocess.run([sys.executable, "clients/python/copy_contract.py", "generated", package], cwd=ROOT, check=True)
    protos = ROOT / "clients" / "python" / "protos"
    made: list[str] = [
        f"--proto_path={protos}",
        f"--python_out={tmp_path}",
        f"--mypy_out=quiet:{tmp_path}",
        *map(str, protos.glob("*/*.proto")),
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *made], check=True, env=os.environ | {"PATH": path})
    fresh = {str(each.relative_to(package)) for each in package.rglob("*") if each.is_file()}
    kept = {str(each.relative_to(PACKAGE)) for each in (PACKAGE / "v1").iterdir() if each.is_file()}
    assert kept <= fresh
    assert filecmp.cmpfiles(package, PACKAGE, fresh, shallow=False)[1:] == ([], []), "run `make stubs-python`"

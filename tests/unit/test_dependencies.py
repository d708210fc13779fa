"""The versions that the package asks for are those with which it works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_no_version_is_allowed_that_the_generated_code_refuses() -> None:
    """It refuses older ones than it was made with: raise the bounds of grpcio and protobuf when `make proto` did."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = {each.name: str(each.specifier) for each in map(Requirement, project["dependencies"])}
    code = "".join(path.read_text("utf-8") for path in (ROOT / "generated").rglob("*_pb2*.py"))
    (grpcio,) = set(re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", code, re.MULTILINE))
    (protobuf,) = set(re.findall(r"^# Protobuf Python Version: (.+)$", code, re.MULTILINE))
    assert (bounds["grpcio"], bounds["protobuf"]) == (f">={grpcio}", f">={protobuf}")

"""Write the package's own copy of what is made from protos/: the stubs, and the service config.

The package must not install `skilder/keys/v1` itself: the service's own package does, and two packages with the same
files break each other when one is removed. So the copy is `skilder_keys_client.v1`, and only its imports differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVICE_CONFIG = ROOT / "docs" / "service-config.json"
PACKAGE = HERE / "src" / "skilder_keys_client"
DOCSTRING = '"""The messages and stubs of the contract, made from its protos. Written by copy_contract.py."""\n'


def contents(generated: Path) -> dict[Path, str]:
    """Return the files of the copy of `generated/`, by their paths below the package."""
    stubs = generated / "skilder" / "keys" / "v1"
    files = {Path("service-config.json"): SERVICE_CONFIG.read_text("utf-8"), Path("v1/__init__.py"): DOCSTRING}
    services = {path.stem.removesuffix("_pb2_grpc") for path in stubs.glob("*_service_pb2_grpc.py")}
    for path in sorted(stubs.glob("*_pb2*.py*")):
        # A file without a service has stubs with nothing in them.
        name = path.name.partition(".")[0]
        if name.endswith("_pb2") or name.removesuffix("_pb2_grpc") in services:
            text = path.read_text("utf-8")
            files[Path("v1", path.name)] = text.replace(
                "from skilder.keys.v1 import", "from skilder_keys_client.v1 import"
            )
    return files


def write(generated: Path = ROOT / "generated", package: Path = PACKAGE) -> None:
    """Write the copy, and remove what is no longer part of it."""
    (package / "v1").mkdir(parents=True, exist_ok=True)
    files = contents(generated)
    for path in (package / "v1").iterdir():
        if path.is_file() and path.relative_to(package) not in files:
            path.unlink()
    for name, text in files.items():
        (package / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))

"""The README of the Python client, as a reader follows it, and the wheel that a user installs."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from skilder_keys_client import Connection
from tests.support.clients import PYTHON_SOURCES
from tests.support.lengths import LONG
from tests.support.process import serving_process
from tests.support.service import TOKENS
from tests.support.transport import ONLY_GRPCIO
from tests.support.walk import steps
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from tests.support.service import Service

PROJECT = PYTHON_SOURCES.parent
README = (PROJECT / "README.md").read_text("utf-8")
PROGRAMS = dict(re.findall(r"<!-- (walk\.py|fastapi) -->\n```python\n(.*?)```", README, re.DOTALL))
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def built(folder: Path) -> Path:
    """Build the wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel(tmp_path: Path) -> None:
    """It has every source file, nothing else at the top level, and needs grpcio and protobuf only."""
    with zipfile.ZipFile(built(tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        needs = HeaderParser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    sources = {str(each.relative_to(PYTHON_SOURCES)) for each in PYTHON_SOURCES.rglob("*") if each.is_file()}
    assert names == {each for each in sources if "__pycache__" not in each}
    assert "skilder_keys_client/py.typed" in names
    assert sorted(re.split(r"[^a-z]", each)[0] for each in needs if "extra" not in each) == ["grpcio", "protobuf"]


@pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")
@pytest.mark.usefixtures("with_postgres_files")
def test_the_walk(tmp_path: Path) -> None:
    """By the package as it is installed in an environment of its own, which a program may import from any folder."""
    venv = tmp_path / "build" / "client"
    (install, walk) = steps(README)
    assert install.commands.count("\n") == 2
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/*/site-packages")
    with zipfile.ZipFile(built(tmp_path)) as wheel:
        wheel.extractall(site)
    for name in ("grpc", "google", "typing_extensions.py"):
        (site / name).symlink_to(Path(sysconfig.get_paths()["purelib"]) / name)
    (tmp_path / "build" / "walk.py").write_text(PROGRAMS["walk.py"], "utf-8")
    with serving_process(tmp_path) as server:
        program = tmp_path / "build" / "walk.py"
        program.write_text(PROGRAMS["walk.py"].replace("127.0.0.1:50051", server.address), "utf-8")
        done = subprocess.run(
            ["/bin/bash", "-ec", walk.commands],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
            check=False,
        )
    assert walk.output is not None
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == walk.output


@ONLY_GRPCIO
async def test_the_application(service: Service) -> None:
    """It serves with a key that reaches the tool."""
    await service.operator.apply(small_workspace())
    issued = await service.operator.issue(description="Bot")
    names: dict[str, Any] = {}
    exec(PROGRAMS["fastapi"], names)  # noqa: S102 - the program of the page
    app = names["application"](Connection(service.address, token=TOKENS["service"], plaintext=True))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http,
    ):
        passed = await http.post("/messages", headers={"X-API-Key": issued.token})
        refused = await http.post("/messages")
    assert (passed.json(), passed.status_code, refused.status_code) == ("posted for Bot", 200, 401)

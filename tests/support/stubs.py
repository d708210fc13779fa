"""Programs in other languages, built on stubs that are made from protos/.

A program is built once for each state of its sources, the contract and the tools, and kept in `build/stubs`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import google.rpc
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
_BUILD = ROOT / "build"
_GO_PLUGINS = {"go": _BUILD / "bin" / "protoc-gen-go", "go-grpc": _BUILD / "bin" / "protoc-gen-go-grpc"}
_NODE = _BUILD / "typescript" / "node_modules"
_JARS = _BUILD / "java"
_PROTOC = _JARS / "protoc-linux-x86_64.exe"
_JAVA_PLUGIN = _JARS / "protoc-gen-grpc-java-linux-x86_64.exe"
# What a build by hand leaves in the folder of sources.
_MADE = {"node_modules", "out", "target"}
_WELL_KNOWN = str(files("grpc_tools") / "_proto")
_GOOGLE_RPC = str(Path(next(iter(google.rpc.__path__))).parents[1])
# The compiler runs once, so time spent on making it faster is lost.
_JAVA_OPTIONS = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC")


_DIGEST_LENGTH = 16
# A name may begin with another one: `go` and `go-client`.
_ANY_DIGEST = "[0-9a-f]" * _DIGEST_LENGTH


@dataclass(frozen=True, slots=True)
class Language:
    """How programs in a language are built.

    Attributes:
        sources: The folder with the programs.
        needs: The commands and files without which nothing can be built.
        install: What to do if one of them is missing.
        build: Builds the programs in a folder with a copy of the sources.
        run: The command for a program, given the folder and the program's name.
    """

    name: str
    sources: Path
    needs: Sequence[str | Path]
    install: str
    build: Callable[[Path], None]
    run: Callable[[Path, str], list[str]]

    def check(self) -> None:
        """Fail in CI and skip the test elsewhere, without what it takes."""
        if missing := [str(each) for each in self.needs if shutil.which(each) is None and not Path(each).exists()]:
            reason = f"stubs for {self.name} need {missing[0]}, which was not found: {self.install}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

    def built(self) -> Path:
        """Return the folder with the programs, or do as `check` does."""
        self.check()
        folder = _BUILD / "stubs" / f"{self.name}-{self._digest()}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several test processes may need the same.
        with (folder.parent / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                for old in folder.parent.glob(f"{self.name}-{_ANY_DIGEST}"):
                    shutil.rmtree(old)
                with tempfile.TemporaryDirectory(dir=folder.parent) as new:
                    made = shutil.copytree(self.sources, Path(new) / "made", ignore=shutil.ignore_patterns(*_MADE))
                    self.build(made)
                    made.rename(folder)
        return folder

    def _digest(self) -> str:
        digest = hashlib.sha256()
        paths: list[Path] = []
        for folder, _, names in sorted(os.walk(self.sources)):
            if not _MADE & set(Path(folder).relative_to(self.sources).parts):
                paths += [Path(folder, name) for name in sorted(names)]
        for path in [*paths, *_protos(), Path(__file__)]:
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:_DIGEST_LENGTH]


def _protos() -> list[Path]:
    return sorted(PROTOS.glob("skilder/keys/**/*.proto"))


def _run(folder: Path, *command: str | Path, **variables: str) -> None:
    subprocess.run(command, cwd=folder, check=True, env=os.environ | variables)


def _build_go(folder: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", *_protos()]
    for name, plugin in _GO_PLUGINS.items():
        command += [f"--plugin=protoc-gen-{name}={plugin}", f"--{name}_out=.", f"--{name}_opt=module=skilder.dev"]
    _run(folder, *command)
    _run(folder, "go", "build", "-o", "calls", ".", GOFLAGS="-mod=mod")


def _build_typescript(folder: Path) -> None:
    (folder / "node_modules").symlink_to(_NODE)
    (folder / "gen").mkdir()
    paths = [f"--proto_path={each}" for each in (PROTOS, _GOOGLE_RPC)]
    plugin = ["--plugin=protoc-gen-es=node_modules/.bin/protoc-gen-es", "--es_opt=target=ts,import_extension=js"]
    details = "google/rpc/error_details.proto"
    _run(folder, sys.executable, "-m", "grpc_tools.protoc", *paths, *plugin, "--es_out=gen", *_protos(), details)
    _run(folder, "node", "node_modules/typescript/bin/tsc", "--project", ".")


def _build_java(folder: Path) -> None:
    for name in ("gen", "out"):
        (folder / name).mkdir()
    _PROTOC.chmod(0o755)
    _JAVA_PLUGIN.chmod(0o755)
    paths = [f"--proto_path={each}" for each in (PROTOS, _WELL_KNOWN)]
    plugin = [f"--plugin=protoc-gen-grpc-java={_JAVA_PLUGIN}", "--grpc-java_out=gen"]
    _run(folder, _PROTOC, *paths, *plugin, "--java_out=gen", *_protos())
    options = ["-proc:none", "-encoding", "UTF-8", "-d", "out", "-classpath", f"{_JARS}/*"]
    sources = (folder / "gen").rglob("*.java")
    _run(folder, "javac", *_JAVA_OPTIONS, *options, "Calls.java", *sources)


_SUPPORT = Path(__file__).parent
LANGUAGES = {
    each.name: each
    for each in (
        Language(
            "go",
            _SUPPORT / "go",
            ["go", *_GO_PLUGINS.values()],
            "install Go and run `make tools`",
            _build_go,
            lambda folder, program: [str(folder / program)],
        ),
        Language(
            "typescript",
            _SUPPORT / "typescript",
            ["node", _NODE / ".ready"],
            "install Node 20 and npm, and run `make stubs`",
            _build_typescript,
            lambda folder, program: ["node", str(folder / "out" / f"{program}.js")],
        ),
        Language(
            "java",
            _SUPPORT / "java",
            ["java", "javac", _JARS / ".ready"],
            "install a JDK and Maven, on Linux with x86-64, and run `make stubs`",
            _build_java,
            lambda folder, program: ["java", "-cp", f"{folder / 'out'}:{_JARS}/*", program.title()],
        ),
    )
}

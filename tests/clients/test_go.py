"""The client for Go: its own tests, its walk, and its README as a reader follows it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.go_client import GO_CLIENT
from tests.support.lengths import LONG
from tests.support.process import serving_process
from tests.support.service import TOKENS
from tests.support.stubs import ROOT
from tests.support.walk import reader_variables, shell, steps

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

SOURCES = GO_CLIENT.sources
README = (SOURCES / "README.md").read_text("utf-8")
WALK, INSTALL, RUN = steps(README)
# A program with the guards of the README, which is compiled beside the one that is run.
GUARDS = """\
package main

import (
	"net/http"

	"google.golang.org/grpc"

	"skilder.dev/keys"
	"skilder.dev/keys/guard"
)

var _ = func(handler http.Handler) {
%s
_ = err
%s
_ = server
}
"""
only_in_the_long_form = pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")


def test_it_has_the_service_config() -> None:
    """If it has not: run `go generate` in clients/go."""
    assert (SOURCES / "service-config.json").read_bytes() == (ROOT / "docs" / "service-config.json").read_bytes()


def test_the_readme_has_the_tested_versions() -> None:
    """As go.mod pins them, which is the same as for the programs on Go's stubs."""
    module = (SOURCES / "go.mod").read_text("utf-8")
    pins = dict(re.findall(r"^\t(\S+) v(\S+)$", module, re.MULTILINE))
    (language,) = re.findall(r"^go (\S+)$", module, re.MULTILINE)
    table = README.split("| tested with |", 1)[1].split("\n\n", 1)[0]
    assert dict(re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|$", table, re.MULTILINE)) == {
        "Go": language,
        "google.golang.org/grpc": pins["google.golang.org/grpc"],
        "google.golang.org/protobuf": pins["google.golang.org/protobuf"],
    }
    others = (ROOT / "tests" / "support" / "go" / "go.mod").read_text("utf-8")
    assert dict(re.findall(r"^\t(\S+) v(\S+)$", others, re.MULTILINE)).items() <= pins.items()


def test_what_is_fetched_is_named_without_addresses() -> None:
    """Every module has its digest."""
    for name in ("go.mod", "go.sum"):
        assert "://" not in (SOURCES / name).read_text("utf-8")


@only_in_the_long_form
def test_its_own_tests_pass() -> None:
    """Secrets, guards, and what `go vet` sees."""
    GO_CLIENT.check()
    for command in (["go", "vet", "./..."], ["go", "test", "./..."]):
        ended = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@only_in_the_long_form
async def test_the_walk(empty_service: Service, tmp_path: Path) -> None:
    """It prints what the README shows, with both transports."""
    folder = await asyncio.to_thread(GO_CLIENT.built)
    (tmp_path / "token").write_text(TOKENS["operator"])
    command = [*GO_CLIENT.run(folder, "walk"), empty_service.address, str(tmp_path / "token")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", WALK.output)


@only_in_the_long_form
@pytest.mark.usefixtures("with_postgres_files")
def test_the_readme(tmp_path: Path) -> None:
    """A reader takes the walk, and makes a program of their own that asks about a token."""
    GO_CLIENT.check()
    shutil.copytree(SOURCES, tmp_path / "clients" / "go")
    program, *guards = re.findall(r"```go\n(.*?)```", README, re.DOTALL)
    assert len(guards) == GUARDS.count("%s")
    with serving_process(tmp_path) as server, shell(tmp_path, reader_variables(server.address)) as session:
        session.take(WALK.at(server.address))
        session.take(INSTALL)
        (tmp_path / "slack-tool" / "main.go").write_text(program.replace("127.0.0.1:50051", server.address), "utf-8")
        (tmp_path / "slack-tool" / "guards.go").write_text(GUARDS % tuple(guards), "utf-8")
        session.take(RUN)

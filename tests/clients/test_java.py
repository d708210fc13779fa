"""The client for Java: its walk, and its README as a reader follows it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.support.java_client import JAVA_CLIENT, MAVEN_OPTS, class_path
from tests.support.lengths import LONG
from tests.support.process import serving_process
from tests.support.service import TOKENS
from tests.support.stubs import ROOT
from tests.support.walk import reader_variables, shell, steps

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

README = (JAVA_CLIENT.sources / "README.md").read_text("utf-8")
BUILD, WALK = steps(README)
# On a busy machine the first call of a Java program may take longer than its deadline. Then it says to try again.
_TRIES = 5
only_in_the_long_form = pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")


def _pom(folder: Path) -> ET.Element:
    return ET.fromstring((folder / "pom.xml").read_text("utf-8"))  # noqa: S314  # it is ours


def _properties(pom: ET.Element) -> dict[str, str]:
    return {each.tag: each.text or "" for each in pom.iterfind("properties/*")}


def _versions(pom: ET.Element) -> dict[str, str]:
    """Return the versions in a pom by the names of the README."""
    plugin = next(each for each in pom.iter("plugin") if "ascopes" in (each.findtext("groupId") or ""))
    properties = _properties(pom)
    return {
        "Java": properties["maven.compiler.release"],
        "grpc-java": properties["grpc"],
        "protobuf-java": properties["protobuf"],
        "protobuf-maven-plugin of io.github.ascopes": plugin.findtext("version") or "",
    }


def test_the_readme_has_the_tested_versions() -> None:
    """As the pom pins them, which is the same as for the stubs of other programs."""
    pom = _pom(JAVA_CLIENT.sources)
    table = README.split("| tested with |", 1)[1].split("\n\n", 1)[0]
    assert dict(re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|$", table, re.MULTILINE)) == _versions(pom)
    assert _properties(_pom(ROOT / "tests" / "support" / "java")).items() <= _properties(pom).items()


def test_what_is_fetched_is_named_without_addresses() -> None:
    """Every file that Maven may use has its digest; none has an address."""
    for name in ("pom.xml", "artifacts.sha256"):
        assert "://" not in (JAVA_CLIENT.sources / name).read_text("utf-8")


@only_in_the_long_form
async def test_the_walk(empty_service: Service, tmp_path: Path) -> None:
    """It prints what the README shows, with both transports."""
    folder = await asyncio.to_thread(JAVA_CLIENT.built)
    (tmp_path / "token").write_text(TOKENS["operator"])
    command = [*JAVA_CLIENT.run(folder, "example.Walk"), empty_service.address, str(tmp_path / "token")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", WALK.output)


@only_in_the_long_form
@pytest.mark.usefixtures("with_postgres_files")
def test_the_readme(tmp_path: Path) -> None:
    """A reader builds the project, takes the walk, and compiles the program that guards a tool."""
    JAVA_CLIENT.check()
    folder = tmp_path / "clients" / "java"
    shutil.copytree(JAVA_CLIENT.sources, folder, ignore=shutil.ignore_patterns("target"))
    for name in ("protos", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    ((program, printed),) = re.findall(r"```java\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL)
    with serving_process(tmp_path) as server:
        with shell(folder, reader_variables(server.address) | {"MAVEN_OPTS": MAVEN_OPTS}) as session:
            session.take(BUILD)
            session.take(WALK.at(server.address))
        shutil.copy(tmp_path / "data" / "operator-token", folder)
        (folder / "Guard.java").write_text(program.replace("127.0.0.1:50051", server.address), "utf-8")
        command = ["java", "-cp", class_path(folder), "Guard.java"]
        for _ in range(_TRIES):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
            if done.stdout != "try again later\n":
                break
    assert (done.returncode, done.stderr, done.stdout) == (0, "", printed)

"""The client for Java, built by Maven as a user builds it, but offline, from what `make stubs-java` fetched."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import LONG
from tests.support.stubs import PROTOS, ROOT, Language

if TYPE_CHECKING:
    from pathlib import Path

FETCHED = ROOT / "build" / "maven"
# The build runs once, so time spent on making it faster is lost.
MAVEN_OPTS = f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dstyle.color=never -Dmaven.repo.local={FETCHED / 'repository'}"


def _build(folder: Path) -> None:
    folders = [f"-Dprotos={PROTOS}", f"-Ddocuments={ROOT / 'docs'}"]
    command = ["mvn", "--offline", "--quiet", "--batch-mode", *folders, "process-test-classes"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"MAVEN_OPTS": MAVEN_OPTS})


def class_path(folder: Path) -> str:
    """Return the class path of the programs in a folder that was built."""
    return ":".join(f"{folder}/target/{each}" for each in ("classes", "test-classes", "libraries/*"))


JAVA_CLIENT = Language(
    "java-client",
    ROOT / "clients" / "java",
    ["java", "javac", "mvn", FETCHED / ".ready"],
    "install a JDK and Maven, on Linux with x86-64, and run `make stubs`",
    _build,
    lambda folder, program: [
        "java",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        class_path(folder),
        f"dev.skilder.keys.{program}",
    ],
)


def conformance_driver() -> list[str]:
    """Return the command of the program that makes the calls of the conformance cases."""
    if not LONG:
        pytest.skip("`make test-clients` runs it")
    return JAVA_CLIENT.run(JAVA_CLIENT.built(), "conformance.Driver")

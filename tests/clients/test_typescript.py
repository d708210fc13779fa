"""The client for TypeScript: its own tests, and what it has from the rest of the repository."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.lengths import LONG
from tests.support.stubs import ROOT
from tests.support.typescript_client import TYPESCRIPT_CLIENT

SOURCES = TYPESCRIPT_CLIENT.sources
only_in_the_long_form = pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")


@only_in_the_long_form
def test_its_own_tests_pass() -> None:
    """Retries, lost connections, secrets, decisions and guards."""
    folder = TYPESCRIPT_CLIENT.built()
    tests = sorted(str(path) for path in (folder / "out" / "test").glob("*.test.js"))
    assert tests
    command = ["node", "--test", "--test-reporter=tap", *tests]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout


def test_it_has_the_service_config() -> None:
    """If it has not: run `node clients/typescript/scripts/service-config.mjs`."""
    text = (SOURCES / "src" / "service-config.ts").read_text("utf-8")
    embedded = re.search(r"ServiceConfig = (\{.*\});\n\Z", text, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == json.loads((ROOT / "docs" / "service-config.json").read_text("utf-8"))


def test_the_lock_file_has_digests_and_no_addresses() -> None:
    """So packages come from the registry that the machine is set to, and are those that were tested."""
    packages = json.loads((SOURCES / "package-lock.json").read_text("utf-8"))["packages"]
    fetched = {name: each for name, each in packages.items() if name}
    assert [name for name, each in fetched.items() if "resolved" in each] == []
    assert [name for name, each in fetched.items() if "integrity" not in each] == []


def test_its_stubs_are_made_and_run_by_the_versions_that_are_tested() -> None:
    """The tools that make the stubs are those of the other programs, and no older library reads them."""
    own = json.loads((SOURCES / "package.json").read_text("utf-8"))
    stubs = json.loads((ROOT / "tests" / "support" / "typescript" / "package.json").read_text("utf-8"))["dependencies"]
    pinned = own["devDependencies"] | {name: version.removeprefix("^") for name, version in own["dependencies"].items()}
    assert stubs.items() <= pinned.items()

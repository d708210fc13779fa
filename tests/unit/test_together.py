"""Cases that run as one test in the short form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lengths import VARIABLE, by_form

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import with_envoy_if_short

@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("name", ["a", "b"])
def test_pure(number, name):
    assert (number, name) != (4, "b"), "this case is wrong"

@pytest.mark.parametrize("number", range(6))
def test_with_a_fixture(number, tmp_path):
    pass

@pytest.mark.parametrize("number", range(6))
def test_skipped(number):
    if number == 2:
        pytest.skip("install it")

@pytest.mark.parametrize("number", range(6))
async def test_async(number):
    pass

@with_envoy_if_short(number=[0])
@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
@pytest.mark.parametrize("number", range(3))
async def test_with_envoy(number, transport):
    pass

@pytest.fixture(params=[1, 2])
def prepared(request):
    print("prepared")
    return request.param

@TOGETHER_IF_SHORT
@pytest.mark.parametrize("number", range(6))
async def test_prepared(number, prepared):
    assert (number, prepared) != (4, 2), "this preparation is wrong"
"""


def outcome(folder: Path, form: str) -> str:
    """Run the tests above in a form, and return what pytest prints."""
    (folder / "test_cases.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    command += ["-c", str(ROOT / "pyproject.toml"), str(folder / "test_cases.py")]
    variables = {**os.environ, VARIABLE: form, "TMPDIR": str(folder)}
    return subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True).stdout


@pytest.mark.parametrize("form", by_form([""], ["", "1"]))
def test_cases_that_need_nothing_else_run_as_one_in_the_short_form(form: str, tmp_path: Path) -> None:
    """A failure names its case, and all others run. In the long form, and with a fixture or a loop, each is a test.

    The long form also has the cases with Envoy that the short form leaves out.
    """
    printed = outcome(tmp_path, form)
    assert "this case is wrong" in printed
    assert "install it" in printed
    assert "this preparation is wrong" in printed
    if form:
        assert "2 failed, 45 passed, 1 skipped" in printed
    else:
        assert "1 of 12 cases failed" in printed
        assert "in test_pure[b-4]" in printed
        assert "1 of 6 cases failed" in printed
        assert "in test_prepared[2-4]" in printed
        assert "2 failed, 17 passed, 1 skipped" in printed

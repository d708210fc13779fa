"""Diverged histories serve nothing that was revoked, and each mistake about them is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stock import MISSING, binaries

ROOT = Path(__file__).parents[2]
SECONDS = 300.0


@pytest.mark.long
@pytest.mark.skipif(binaries() is None, reason=MISSING)
@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        ("none", "REVOKED REVOKED"),
        ("no-tag", "granted REVOKED"),
        ("no-clean-start", "granted REVOKED"),
        ("no-unknown-readers", "REVOKED granted"),
    ],
)
def test_a_mistake_about_histories_is_found(mutation: str, expected: str) -> None:
    """Where history is rewritten under a process, and where a restored database does not know a process."""
    command = [sys.executable, "-m", "faults.histories", mutation]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.stdout.strip() == expected, done.stderr
    assert done.returncode == int("granted" in expected)

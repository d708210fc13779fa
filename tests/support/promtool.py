"""Prometheus's own programs, which check what is made for Prometheus."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NEEDS_PROMTOOL = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str, folder: Path | None = None, stdin: str = "") -> str:
    """Run promtool, which must find nothing wrong, and return what it prints."""
    command = ("promtool", *arguments)
    done = subprocess.run(
        command,
        cwd=folder,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout

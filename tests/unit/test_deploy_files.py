"""The files in deploy/, checked by the programs that use them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "skilder-keys.rules.yml"


def run(folder: Path, *command: str) -> None:
    """Run a command, which must find nothing wrong."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here (Debian: apt-get install prometheus)")
def test_the_alerts_are_good_rules_and_fire_when_they_should() -> None:
    """Each one for its problem, and none for a healthy service."""
    run(RULES.parent, "promtool", "check", "rules", RULES.name)
    run(RULES.parent, "promtool", "test", "rules", "skilder-keys.rules.test.yml")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here (Debian: apt-get install systemd)")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With a command that exists, since systemd checks that."""
    (tmp_path / "skilder-keys").write_text("#!/bin/sh\n")
    (tmp_path / "skilder-keys").chmod(0o755)
    unit = (DEPLOY / "skilder-keys.service").read_text("utf-8").replace("/opt/skilder-keys/bin", str(tmp_path))
    (tmp_path / "skilder-keys.service").write_text(unit)
    run(tmp_path, "systemd-analyze", "verify", "./skilder-keys.service")

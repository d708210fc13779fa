"""A real Prometheus that scrapes a server, with the rules of deploy/prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.docs.links import ROOT
from tests.support.stock import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEEDS_PROMETHEUS = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="Prometheus is not here (Debian: apt-get install prometheus)"
)
RULES = ROOT / "deploy" / "prometheus" / "skilder-keys.rules.yml"
_PATIENCE = 60


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now; fail if Prometheus refuses it."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def get(self, path: str, **parameters: str) -> Any:
        """Return what the HTTP API responds."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
            return json.load(response)["data"]

    def until(self, expression: str) -> None:
        """Wait until an expression gives something."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if self.query(expression):
                    return
            except OSError:  # it starts
                pass
            time.sleep(0.1)
        raise AssertionError(f"nothing comes of {expression}")


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes HOST:PORT twice a second."""
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "skilder-keys", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = (
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}", "--log.level=warn",
    )  # fmt: skip
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(address)
        finally:
            process.kill()

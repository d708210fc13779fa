"""Stubs that are committed with the clients: as `make stubs` makes them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.stubs import LANGUAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

# The folder with a client's stubs. There is nothing else in it.
COMMITTED = {"go": "clients/go/v1", "typescript": "clients/typescript/src/gen"}
TEMPLATES = [ROOT / "buf.gen.yaml", *sorted(ROOT.glob("clients/*/buf.gen.yaml"))]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("language", COMMITTED)
def test_they_are_up_to_date(tmp_path: Path, language: str) -> None:
    """If they are not, run `make stubs`."""
    LANGUAGES[language].check()
    template = f"clients/{language}/buf.gen.yaml"
    subprocess.run([".venv/bin/buf", "generate", "--output", tmp_path, "--template", template], cwd=ROOT, check=True)
    fresh = _content(tmp_path / COMMITTED[language])
    committed = _content(ROOT / COMMITTED[language])
    assert fresh, "nothing was made"
    stale = [name for name in sorted(fresh.keys() | committed.keys()) if fresh.get(name) != committed.get(name)]
    assert stale == [], f"run `make stubs-{language}`"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.parent.name)
def test_every_plugin_is_of_this_machine(path: Path) -> None:
    """No template sends the contract away to be compiled."""
    plugins = yaml.safe_load(path.read_text("utf-8"))["plugins"]
    assert plugins
    assert all(plugin.keys() & {"local", "protoc_path"} for plugin in plugins)

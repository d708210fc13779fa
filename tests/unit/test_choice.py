"""Which transport a server uses: the requested one or, with `auto`, one that runs on this machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import pytest

from skilder_keys.transports import choice
from skilder_keys.transports.choice import Choice, Trial, choose
from skilder_keys.transports.envoy.process import EnvoyMissingError, installed
from tests.support.transport import why_unavailable

if TYPE_CHECKING:
    from pathlib import Path


def program(folder: Path, text: str) -> str:
    """Write an executable file and return its path."""
    path = folder / "envoy"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def missing() -> Trial:
    """Fail as if Envoy were not installed."""
    raise EnvoyMissingError("The Envoy transport is not installed: try this.")


@pytest.mark.parametrize("wanted", ["grpcio", "envoy"])
def test_a_named_transport_is_used(wanted: Literal["grpcio", "envoy"]) -> None:
    """Even where Envoy is missing: then the start fails with an error that says so."""
    assert choose(wanted, missing) == Choice(wanted, "set by the option")


def test_auto_uses_envoy_where_it_runs(tmp_path: Path) -> None:
    """Envoy gets its own variables in addition to those of this process."""
    path = program(tmp_path, f'#!/bin/sh\necho "$1 $EXTRA $PATH" >{tmp_path}/seen\n')
    assert choose("auto", lambda: Trial(path, tmp_path, {"EXTRA": "yes"})) == Choice("envoy", "Envoy is installed")
    assert (tmp_path / "seen").read_text() == f"--version yes {os.environ['PATH']}\n"


@pytest.mark.parametrize("module", ["cryptography", "envoy", "find_libpython", "pyvoy"])
def test_envoy_is_missing_where_one_of_its_packages_is(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Any package of the extra `[envoy]`, also one that is used much later."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvoyMissingError, match="is not installed: pip install"):
        installed()


def test_envoy_finds_python_as_pyvoy_sets_it() -> None:
    """The variables equal those of pyvoy, whose function is not used because it takes long to load."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    from pyvoy._server import get_envoy_environ  # noqa: PLC0415 - optional

    _, variables = installed()
    assert variables == get_envoy_environ()


def test_auto_uses_grpcio_where_envoy_is_missing() -> None:
    """The reason says what to do about it."""
    assert choose("auto", missing) == Choice("grpcio", "The Envoy transport is not installed: try this.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho first >&2\necho GLIBC_9.9 not found >&2\nexit 1\n", "GLIBC_9.9 not found"),
        ("#!/bin/sh\nexit 127\n", "{path} --version ended with 127"),
        ("#!/bin/sh\nkill -ILL $$\n", "{path} --version ended with -4"),
        ("#!/bin/sh\nprintf '\\377\\n' >&2\nexit 1\n", "\N{REPLACEMENT CHARACTER}"),
        ("\x7fELF for another machine", "{path}: Exec format error"),
        ("#!/nonexistent/interpreter\n", "{path}: No such file or directory"),
        ("#!/bin/sh\nexec sleep 60\n", "{path} --version did not end within 0 s"),
    ],
)
def test_auto_uses_grpcio_where_envoy_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    """The reason is the error that a person would see who runs it."""
    if "sleep" in text:
        monkeypatch.setattr(choice, "_TRIAL_SECONDS", 0.2)
    path = program(tmp_path, text)
    reason = f"Envoy does not run here: {reason.format(path=path)}"
    assert choose("auto", lambda: Trial(path, tmp_path, {})) == Choice("grpcio", reason)


def test_auto_uses_grpcio_where_the_program_is_gone(tmp_path: Path) -> None:
    """As after an incomplete uninstallation."""
    path = str(tmp_path / "envoy")
    reason = f"Envoy does not run here: {path}: No such file or directory"
    assert choose("auto", lambda: Trial(path, tmp_path, {})) == Choice("grpcio", reason)

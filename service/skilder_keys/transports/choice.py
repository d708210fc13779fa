"""Choose the transport of a server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from skilder_keys.transports.envoy.configuration import python_module
from skilder_keys.transports.envoy.process import EnvoyMissingError, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRIAL_SECONDS = 30.0
_NOT_LOADED = "cannot be preloaded"  # glibc's words about a library in LD_PRELOAD that it continues without


class Choice(NamedTuple):
    """A transport, and the reason for the choice, which is logged."""

    transport: Literal["grpcio", "envoy"]
    reason: str


class Trial(NamedTuple):
    """How to run Envoy for its version: the program, the folder to run it in, and variables to add."""

    program: str
    folder: Path
    variables: Mapping[str, str]


def envoy_trial() -> Trial:
    """Return a trial that loads what a worker loads, Python's library and pyvoy's module, and finds every symbol.

    Raises:
        EnvoyMissingError, ModuleNotFoundError: Envoy or something that it needs is not installed.
    """
    program, variables = installed()
    module = Path(python_module())
    # The module's path is relative to the folder, because a space in it would end it.
    libraries = f"{variables['LD_PRELOAD']}:./{module.name}"
    return Trial(program, module.parent, {"LD_PRELOAD": libraries, "LD_BIND_NOW": "1"})


def choose(wanted: Literal["auto", "grpcio", "envoy"], find_trial: Callable[[], Trial] = envoy_trial) -> Choice:
    """Return the transport to use. For `auto` this is Envoy if it is installed and runs on this machine, else grpcio.

    Args:
        wanted: The option `transport`.
        find_trial: Returns how to try Envoy; raises as `envoy_trial` does.
    """
    if wanted != "auto":
        return Choice(wanted, "set by the option")
    try:
        trial = find_trial()
    except (EnvoyMissingError, ModuleNotFoundError) as error:
        return Choice("grpcio", str(error))
    if reason := _why_not(trial):
        return Choice("grpcio", f"Envoy does not run here: {reason}")
    return Choice("envoy", "Envoy is installed")


def _why_not(trial: Trial) -> str | None:
    """Return why Envoy does not run, or None if it does."""
    program = trial.program
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            [program, "--version"],
            cwd=trial.folder,
            env={**os.environ, **trial.variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TRIAL_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return f"{program}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{program} --version did not end within {_TRIAL_SECONDS:.0f} s"
    if done.returncode == 0 and _NOT_LOADED not in done.stderr:
        return None
    return (done.stderr.strip() or f"{program} --version ended with {done.returncode}").splitlines()[-1]

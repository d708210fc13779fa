"""The real command in a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.forked import Forked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMMAND = Path(sys.executable).with_name("skilder-keys")
FRESH = (COMMAND,)
"""As a `command`: start a new interpreter. By default a command is forked from a process that has loaded it."""

_FAILED = 70
_PATIENCE = 60
_LONGEST_COMMAND = 300


class ServerProcess:
    """A running `skilder-keys serve`, and what it has logged so far."""

    def __init__(self, folder: Path, variables: Mapping[str, str], command: Sequence[str | Path] = ()) -> None:
        """Start the command in `folder`, without the SKILDER_KEYS_* variables of this environment."""
        self.process = _start(command, "serve", folder=folder, variables=variables, stderr=subprocess.PIPE)
        self.lines: list[str] = []
        self._seen = 0
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, message: str, **fields: Any) -> dict[str, Any]:
        """Wait for the next log line with this message and these fields, after the last one returned, and return it.

        Fail if the process ends without one.
        """
        looked_at = self._seen
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while True:
                # Read each line only once: under load there are very many.
                for number, line in enumerate(self.lines[looked_at:], looked_at + 1):
                    event = _event(line)
                    if event == {**event, **fields, "message": message}:
                        self._seen = number
                        return event
                looked_at = len(self.lines)
                if self._ended or not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(f"no {message!r} {fields} in:\n" + "".join(self.lines[-1000:]))

    @cached_property
    def address(self) -> str:
        """The address it serves on, as soon as it serves."""
        return str(self.wait_for("serving")["address"])

    def events(self, message: str) -> list[dict[str, Any]]:
        """Return every log line so far with this message."""
        return [event for line in self.lines if (event := _event(line)).get("message") == message]

    def workers(self) -> dict[int, psutil.Process]:
        """Return the newest process for each worker number."""
        pids = {each["worker"]: each["pid"] for each in self.events("worker started")}
        return {worker: psutil.Process(pid) for worker, pid in pids.items()}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        return code

    def text(self) -> str:
        """Return all it has written."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _event(line: str) -> dict[str, Any]:
    """Return the event of a log line, or nothing for any other line."""
    return json.loads(line) if line.startswith("{") else {}


@contextmanager
def serving_process(
    folder: Path, *, transport: str = "grpcio", command: Sequence[str | Path] = (), **variables: str
) -> Iterator[ServerProcess]:
    """Run `skilder-keys serve` on a free port, and stop it on exit if it still runs; see also FRESH."""
    defaults = {
        "SKILDER_KEYS_LISTEN": "127.0.0.1:0",
        "SKILDER_KEYS_LOG_FORMAT": "json",
        "SKILDER_KEYS_TRANSPORT": transport,
    }
    server = ServerProcess(folder, defaults | variables, command)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def run_command(
    *arguments: str, folder: Path, stdin: str = "", command: Sequence[str | Path] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a `skilder-keys` command to its end; see also FRESH."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with _start(command, *arguments, folder=folder, variables=variables, **pipes) as process:
        try:
            stdout, stderr = process.communicate(stdin, _LONGEST_COMMAND)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _start(
    command: Sequence[str | Path], *arguments: str, folder: Path, variables: Mapping[str, str], **streams: Any
) -> subprocess.Popen[str]:
    """Start a command, or fork one if none is given. A fork uses UTF-8, also where the locale does not."""
    if command:
        return subprocess.Popen([*command, *arguments], cwd=folder, env=environment(variables), text=True, **streams)
    env = environment({"PYTHONUTF8": "1", **variables})
    return Forked[str]([COMMAND, *arguments], cwd=folder, env=env, encoding="utf-8", **streams)


def serve_on_taken_address(option: str, *, folder: Path, **variables: str) -> tuple[str, str]:
    """Serve with an address in use as the value of an option; return the address, and the error that ends the start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        values = {"SKILDER_KEYS_LISTEN": "127.0.0.1:0", **variables, option: address}
        done = run_command("serve", folder=folder, **values)
    assert done.returncode == _FAILED
    assert "Traceback" not in done.stderr
    return address, done.stderr


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with other SKILDER_KEYS_* variables; the default transport is grpcio.

    The size of the terminal that the tests run in is left out.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SKILDER_KEYS_") and name not in ("COLUMNS", "LINES")
    }
    return kept | {"SKILDER_KEYS_TRANSPORT": "grpcio"} | dict(variables)

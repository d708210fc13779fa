"""Runs of the command that are forked from a process which has already loaded it: the import takes most of their time.

A test that is about the start of the interpreter, or about what a process inherits, needs a real start instead:
`subprocess.Popen`.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM = Path(__file__).with_name("fork_server.py")
# Variables that are read once, at the start: by the interpreter, the dynamic linker, the C library and gRPC.
_START_VARIABLES = ("PYTHON", "LD_", "LC_", "LANG", "LOCPATH", "TZ", "MALLOC_", "GLIBC_", "GRPC_", "OPENSSL_")
_NUMBER = struct.Struct("i")
_starting = threading.Lock()


class Forked(subprocess.Popen[AnyStr]):
    """A Python script in a process of its own, which is started without loading the command anew.

    It is used like Popen. The process is the child of a fork server, which reports its id and how it ended.
    """

    _connection: socket.socket

    def _execute_child(
        self,
        args: Any,
        _executable: Any,
        preexec_fn: Any,
        _close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        _startupinfo: Any,
        _creationflags: Any,
        shell: Any,
        *more: Any,
    ) -> None:
        """Start the process. Popen calls this with the descriptors of both ends of its pipes, or -1 to inherit one."""
        assert not any((preexec_fn, pass_fds, shell)), "a forked process supports none of these"
        pipes, new_session = more[:6], more[11]
        streams: list[int] = [given if given >= 0 else at for at, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        variables = dict(os.environ if env is None else env)
        # As bytes, since the encoding of the other side may be another.
        request = {
            "arguments": [os.fsencode(each) for each in args],
            "folder": os.fsencode(cwd or Path.cwd()),
            "variables": {os.fsencode(name): os.fsencode(value) for name, value in variables.items()},
            "new_session": new_session,
        }
        with _starting:
            server = _server(_start_variables(variables))
        self._connection, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(server, [b"."], [theirs.fileno(), *streams])
        self._connection.sendall(pickle.dumps(request))
        self.pid = self._receive(0)
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # of Popen's own

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of a signal, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code, as `poll` does. Raise TimeoutExpired after this many seconds."""
        if self.returncode is None:
            report = select.poll()
            report.register(self._connection, select.POLLIN)
            if not report.poll(None if timeout is None else max(0.0, timeout) * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            # Several threads may wait, so none takes the report away from the others.
            self.returncode = self._receive(socket.MSG_PEEK)
        return self.returncode

    def _receive(self, flags: int) -> int:
        received = self._connection.recv(_NUMBER.size, flags)
        assert received, "the fork server has ended"
        return int(_NUMBER.unpack(received)[0])

    def __del__(self) -> None:
        """Close the connection."""
        if hasattr(self, "_connection"):
            self._connection.close()


def lend_command(folder: Path, command: Path, variables: Mapping[str, str]) -> int:
    """Write a program into a folder that has the command forked for a shell, under the command's name.

    Args:
        folder: A folder for the PATH of the shell.
        command: The real command.
        variables: The environment of the shell.

    Returns:
        The descriptor that the shell must inherit.
    """
    start = _start_variables(variables)
    with _starting:
        server = _server(start)
    mask = os.umask(0)
    os.umask(mask)
    program = folder / command.name
    program.write_text(
        f"#!{sys.executable} -IS\n"
        f"import sys\n"
        f"sys.path.append({str(_PROGRAM.parent)!r})\n"
        f"from forking_command import run\n"
        f"run({server.fileno()}, {str(command)!r}, {dict(start)!r}, {_START_VARIABLES!r}, {mask})\n"
    )
    program.chmod(0o755)
    return server.fileno()


def _start_variables(variables: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in variables.items() if item[0].startswith(_START_VARIABLES))


@cache
def _server(start: frozenset[tuple[str, str]]) -> socket.socket:
    """Start a process that has loaded the command, with these variables for its start, and return its socket."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_START_VARIABLES)}
    # Each message arrives as a whole, so that threads can send at the same time.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, _PROGRAM, str(theirs.fileno())],
            env={**others, **dict(start)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    atexit.register(_end, process, ours)
    return ours


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    """End a server. Its forks run on, as processes do whose parent ends."""
    control.close()
    process.kill()
    process.wait()

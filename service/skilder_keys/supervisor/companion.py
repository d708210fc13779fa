"""A helper process that outlives this process for a short time and stops the processes that are left."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress

_LINE_BYTES = 2**16


class Companion:
    """A standalone program, with a socket to this process as its standard input and output.

    The kernel closes the socket when this process ends, even if it is killed. So the companion always notices.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        """Start a Python file that needs only the standard library."""
        self._socket, child_socket = socket.socketpair()
        try:
            with child_socket:
                self._process = subprocess.Popen(  # noqa: S603 - no shell
                    [sys.executable, "-I", "-S", program, *arguments],
                    stdin=child_socket.fileno(),
                    stdout=child_socket.fileno(),
                    # Signals from a terminal, such as Ctrl-C, must reach only this process.
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise

    @property
    def runs(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def send(self, line: str) -> None:
        """Send a line. Do nothing if the process has ended."""
        with suppress(OSError):
            self._socket.sendall(line.encode() + b"\n")

    def receive(self) -> str:
        """Wait for the next line and return it; return an empty string if the process ends first."""
        received = b""
        while not received.endswith(b"\n") and (more := self._socket.recv(_LINE_BYTES)):
            received += more
        return received.decode()

    def end(self, seconds: float) -> int:
        """Wait for the process to end and return its exit code. Kill it after this many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._socket.close()

    def disconnect(self, seconds: float) -> None:
        """Close the socket, as the end of this process would, and wait for the end. Kill after this many seconds."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.end(seconds)

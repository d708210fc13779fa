"""A process beside this one that outlives it for a moment, to end what it leaves behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress

_LINE_BYTES = 2**16


class Companion:
    """A program of ours that stands alone, joined to this process by a socket, its standard input and output.

    The socket ends with this process, however that ends: so the companion knows.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        """Start it: a Python file that needs the standard library only."""
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - no shell
                    [sys.executable, "-I", "-S", program, *arguments],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    # A terminal's signals are for this process.
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise

    @property
    def runs(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    def send(self, line: str) -> None:
        """Send it a line, if it still runs."""
        with suppress(OSError):
            self._socket.sendall(line.encode() + b"\n")

    def receive(self) -> str:
        """Wait for its next line and return it; an empty one at its end."""
        received = b""
        while not received.endswith(b"\n") and (more := self._socket.recv(_LINE_BYTES)):
            received += more
        return received.decode()

    def end(self, seconds: float) -> int:
        """Wait for its end and return the exit code; kill it after this many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._socket.close()

    def disconnect(self, seconds: float) -> None:
        """Tell it that this process is gone, and wait until it has done its work; kill it after this many seconds."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.end(seconds)

"""The standard streams of a command, whatever they are connected to.

A write that fails raises `OutputError`, which is no OSError: on that of a closed pipe, Typer would exit with 1, which
here means "denied". A character that the stream's encoding lacks is escaped, never an error.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from skilder_keys.cli.exits import Exit
from skilder_keys.cli.secrets import redacted

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

_NAMES = {1: "standard output", 2: "standard error"}


class OutputError(Exception):
    """A standard stream could not be written."""

    def __init__(self, number: int, cause: OSError) -> None:
        why = "it is closed" if cause.errno == errno.EBADF else cause.strerror
        super().__init__(f"cannot write to {_NAMES[number]}: {why}")
        self.pipe_closed = cause.errno == errno.EPIPE

    @property
    def exit_code(self) -> Exit:
        """The exit code of a command whose output got lost."""
        return Exit.PIPE_CLOSED if self.pipe_closed else Exit.OUTPUT_LOST


def prepare() -> None:
    """Replace the standard streams by ones that are safe to write to, also where the command was started without them.

    A closed descriptor is opened on nothing, for the next file or connection would get its number otherwise. What is
    written to a closed standard output is an error, as it is for cat or sort; a closed standard error takes everything.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # noqa: FBT003 - as the function takes it
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8")
    sys.stdout = _writer(1, _Writer, sys.stdout)
    sys.stderr = _writer(2, _Redacted, sys.stderr)


def is_closed(number: int) -> bool:
    """Return whether a standard stream was closed before the start, so that nothing can be written to it."""
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def flush() -> None:
    """Write what waits to be written.

    Raises:
        OutputError: It could not be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()


def _writer(number: int, kind: type[_Writer], given: TextIO | None) -> _Writer:
    encoding = getattr(given, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_Descriptor(number))
    return kind(buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)


class _Descriptor(io.RawIOBase):
    """A file descriptor whose failures are OutputErrors. After the first it takes everything, so that no exit fails."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._failed = False

    def fileno(self) -> int:
        """Return the descriptor's number."""
        return self._number

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Write some of the data and return how many bytes.

        Raises:
            OutputError: It could not be done.
        """
        while not self._failed:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                # Whoever shares the pipe may have made it non-blocking, which it then is for all.
                select.select([], [self._number], [])
            except OSError as error:
                self._failed = True
                raise OutputError(self._number, error) from error
        return len(memoryview(data))


class _Writer(io.TextIOWrapper):
    """A text stream on a descriptor, which stays open when the stream is dropped."""

    def close(self) -> None:
        """Write what waits to be written; nobody is there any more to learn of a failure."""
        with suppress(OutputError):
            self.flush()


class _Redacted(_Writer):
    """Standard error: it ends in logs, so no token gets there."""

    def write(self, text: str) -> int:
        """Write a text without the tokens in it."""
        return super().write(redacted(text))

"""Safe standard streams for a command, for terminals, pipes, files and closed streams.

A failed write raises `OutputError`, which is not an OSError: for the OSError of a closed pipe, Typer would exit with 1,
which here means "denied". A character that the stream's encoding lacks is escaped and never an error.
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
        """The exit code of a command whose output was lost."""
        return Exit.PIPE_CLOSED if self.pipe_closed else Exit.OUTPUT_LOST


def prepare() -> None:
    """Replace the standard streams by safe ones, even if some were closed when the command started.

    Open /dev/null for a closed descriptor: otherwise the next file or connection would get its number. Writing to a
    closed standard output is an error, as it is for cat or sort. A closed standard error accepts everything.
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
    """Return whether a standard stream was closed when the command started, so that writing to it fails."""
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def flush() -> None:
    """Write all buffered output.

    Raises:
        OutputError: A stream could not be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()


def _writer(number: int, kind: type[_Writer], given: TextIO | None) -> _Writer:
    encoding = getattr(given, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_Descriptor(number))
    return kind(buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)


class _Descriptor(io.RawIOBase):
    """A file descriptor that raises OutputError once. After that it accepts all data, so that the exit cannot fail.

    After Ctrl-C during a write, standard output accepts all data too: nobody knows how much of the data was written,
    and the buffer would write all of it again. Standard error goes on, since it says what the interrupted command has
    done.
    """

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
        """Write some of the data and return the number of bytes written.

        Raises:
            OutputError: The write failed.
        """
        while not self._failed:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                # Another process that shares the pipe may have made it non-blocking, which affects all of them.
                select.select([], [self._number], [])
            except OSError as error:
                self._failed = True
                raise OutputError(self._number, error) from error
            except KeyboardInterrupt:
                self._failed = self._number == 1
                raise
        return len(memoryview(data))


class _Writer(io.TextIOWrapper):
    """A text stream on a descriptor. The descriptor stays open when the stream is garbage-collected."""

    def close(self) -> None:
        """Write all buffered output. Ignore a failure, because it could not be reported any more."""
        with suppress(OutputError):
            self.flush()


class _Redacted(_Writer):
    """Standard error without tokens, because it often goes to logs."""

    def write(self, text: str) -> int:
        """Write a text, with every token in it replaced."""
        return super().write(redacted(text))

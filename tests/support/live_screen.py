"""A terminal for a command that fills the screen: a small model of xterm with a keyboard. Its size may change."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from rich.cells import cell_len

from tests.support.process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE = 60
# Makes the terminal the controlling one, as a terminal emulator does, so that Ctrl-C and changes of size send signals.
_START = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_SEQUENCE = re.compile(r"\x1b\[([?]?)([0-9;]*)([A-Za-z])")
_UNFINISHED = re.compile(r"\x1b(\[[?0-9;]*)?$")
NORMAL = {"1049": False, "25": True, "7": True}
"""The modes of a terminal that a command has given back: the first screen, a cursor, and wrapping."""


class LiveScreen:
    """Runs a command on a terminal of its own, and shows what is on the screen.

    Attributes:
        received: All bytes that the command has written.
        frames: How many times the command has drawn a whole screen.
        modes: Which modes are on, by their numbers.
        too_wide: The lines that were longer than the screen.
    """

    def __init__(
        self, *arguments: str, folder: Path, columns: int, lines: int, command: object = COMMAND, **variables: str
    ) -> None:
        """Start a command."""
        self._ours, self._theirs = os.openpty()
        self._changed = threading.Condition()
        self._size = (columns, lines)
        self._grid: dict[int, dict[int, str]] = {}
        self._shown: list[str] = []
        self._row = self._column = 0
        self.received = b""
        self.frames = 0
        self.modes = dict(NORMAL)
        self.too_wide: list[str] = []
        self._resize()
        self.settings = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(command), *arguments],
            cwd=folder,
            env=environment({"TERM": "xterm-256color", **variables}),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """Return the screen."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the command if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(0.2)  # it ends with the last process that has the terminal open
        os.close(self._theirs)
        self._reader.join(_PATIENCE)
        os.close(self._ours)

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size. The kernel tells the command by SIGWINCH."""
        with self._changed:
            self._size = (columns, lines)
            self._grid.clear()
            self._shown = []
            self._resize()

    def is_full(self) -> bool:
        """Return whether the command has the whole screen, without a cursor and without wrapping."""
        return self.modes == {name: not on for name, on in NORMAL.items()}

    def is_as_before(self) -> bool:
        """Return whether the terminal is as it was before the command, when all that the command wrote was read."""
        with self._changed:
            modes_are = self._changed.wait_for(lambda: self.modes == NORMAL, _PATIENCE)
        return modes_are and termios.tcgetattr(self._theirs) == self.settings

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code."""
        return self.process.wait(_PATIENCE)

    def until(self, holds: Callable[[list[str]], object]) -> list[str]:
        """Wait until a condition holds for the lines of a whole screen, and return them."""
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while not (self._shown and holds(self._shown)):
                if self.process.poll() is not None or not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(
                        "not on the screen:\n" + "\n".join(self._shown) + self.received[-500:].decode()
                    )
            return list(self._shown)

    def until_text(self, text: str, times: int = 1) -> None:
        """Wait until the command has written a text so many times, wherever on the screen."""
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while self.received.count(text.encode()) < times:
                assert self._changed.wait(end - time.monotonic()), self.received[-2000:]

    def _resize(self) -> None:
        columns, lines = self._size
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        decoder, waiting = codecs.getincrementaldecoder("utf-8")("replace"), ""
        with suppress(OSError):  # nobody has the terminal open any more
            while data := os.read(self._ours, 65536):
                with self._changed:
                    self.received += data
                    text = waiting + decoder.decode(data)
                    unfinished = _UNFINISHED.search(text)
                    waiting = text[unfinished.start() :] if unfinished else ""
                    self._draw(text[: len(text) - len(waiting)])
                    self._changed.notify_all()

    def _draw(self, text: str) -> None:
        at = 0
        while at < len(text):
            found = _SEQUENCE.match(text, at)
            if found:
                self._control(*found.groups())
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
        else:
            width = cell_len(character)
            row = self._grid.setdefault(self._row, {})
            at = self._column if width else max(self._column - 1, 0)
            row[at] = row.get(at, "") + character if not width else character
            if width == 2:
                row[at + 1] = ""
            self._column += width
            if self._column > self._size[0] and self.modes["1049"]:
                self.too_wide.append(self._line(self._row))

    def _control(self, private: str, numbers: str, kind: str) -> None:
        row = self._grid.setdefault(self._row, {})
        if private and numbers in self.modes:
            self.modes[numbers] = kind == "h"
        elif kind == "H":
            self._row = self._column = 0
        elif kind == "G":
            self._column = int(numbers) - 1
        elif kind == "K":
            for at in [each for each in row if each >= self._column]:
                del row[at]
        elif kind == "J":
            kept = {} if numbers else {each: of for each, of in self._grid.items() if each <= self._row}
            self._grid.clear()
            self._grid.update(kept)
            if not numbers:  # the end of a frame
                self.frames += 1
                assert self._row < self._size[1] or not self.modes["1049"]
                self._shown = [self._line(each) for each in range(self._row + 1)]

    def _line(self, row: int) -> str:
        cells = self._grid.get(row, {})
        return "".join(cells.get(at, " ") for at in range(max(cells, default=-1) + 1)).rstrip()


def rows_of(shown: list[str], *names: str) -> dict[str, list[str]]:
    """Return the words before each of these names on a screen, which are the numbers of its row."""
    found: dict[str, Any] = {}
    for line in shown:
        for name in names:
            before, separator, _ = line.partition(name)
            if separator and name not in found:
                found[name] = before.split()
    return found

"""A terminal that a program fills by itself: it shows frames, reads keys, and always becomes again what it was."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import termios
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.cli.stdio import OutputError
from skilder_keys.cli.text import terminal_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

# Another screen, without a cursor and without wrapping; and back (ECMA-48 and xterm's control sequences).
_OTHER_SCREEN, _ENTER = "\x1b[?1049h", "\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NOTED = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_DEFAULT_SIZE = (80, 24)
_MOST_KEYS = 1024


class Ended(BaseException):
    """A signal ends the program. It is no Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """The terminal at standard output, and its keyboard at standard input if that is a terminal too."""

    def __init__(self, keyboard: int | None, woken: int) -> None:
        self._keyboard = keyboard
        self._woken = woken

    def size(self) -> tuple[int, int]:
        """Return the columns and the lines."""
        try:
            lines, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            lines, columns = 0, 0
        return terminal_width(sys.stdout) or columns or _DEFAULT_SIZE[0], lines or _DEFAULT_SIZE[1]

    def show(self, lines: Sequence[str], *, again: bool = False) -> None:
        """Replace what is on the screen by these lines. With `again`, clear it first."""
        ends = f"{_REST_OF_LINE}\r\n".join(lines)
        _write(("\x1b[2J" if again else "") + _HOME + ends + _REST_OF_LINE + _REST_OF_SCREEN)

    def wait(self, seconds: float) -> tuple[bytes, bool]:
        """Wait for keys, a wake-up or this long. Return the keys, and whether the screen has to be cleared."""
        watched = [self._woken] if self._keyboard is None else [self._woken, self._keyboard]
        ready, _, _ = select.select(watched, [], [], seconds)
        keys, noted = b"", b""
        if self._woken in ready:
            noted = os.read(self._woken, _MOST_KEYS)
        if self._keyboard in ready and self._keyboard is not None:
            with suppress(OSError):
                keys = os.read(self._keyboard, _MOST_KEYS)
            if not keys:
                raise Ended(signal.SIGHUP)  # the terminal is gone
        return keys, any(number in noted for number in _NOTED)


@contextmanager
def screen(woken: int, wake: int) -> Iterator[Screen]:
    """Take the terminal over, and give it back however the block ends.

    A signal that ends a program ends it as it does any program, but after the terminal is as it was.

    Args:
        woken: The end of a pipe to read from; neither end blocks.
        wake: The other end. Whoever writes a zero byte to it wakes the screen up.
    """
    terminal = _Terminal(0 if os.isatty(0) else None)
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {
        **dict.fromkeys(_ENDING, _end),
        signal.SIGWINCH: lambda *_: None,  # wakes the screen up
        signal.SIGCONT: lambda *_: terminal.enter(),
        signal.SIGTSTP: terminal.stop,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    woken_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    ended = 0
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        terminal.enter()
        yield Screen(terminal.keyboard, woken)
    except Ended as end:
        ended = end.number
    finally:
        with _undisturbed():
            terminal.leave()
            for number, handler_before in before.items():
                signal.signal(number, handler_before)
            signal.set_wakeup_fd(woken_before)
    if ended:
        _die(ended)


class _Terminal:
    def __init__(self, keyboard: int | None) -> None:
        self.keyboard = keyboard
        self._settings = None if keyboard is None else termios.tcgetattr(keyboard)
        self._left = self._is_shown = False

    def enter(self) -> None:
        """Take the terminal over: keys come at once, and are not shown. Ctrl-C and Ctrl-Z send signals as usual."""
        if self._left:
            return
        if self.keyboard is not None:
            settings = termios.tcgetattr(self.keyboard)
            settings[3] &= ~(termios.ECHO | termios.ICANON)
            settings[6][termios.VMIN], settings[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self.keyboard, termios.TCSANOW, settings)
        # Entered twice, the other screen would remember the wrong place of the cursor.
        other, self._is_shown = "" if self._is_shown else _OTHER_SCREEN, True
        _write(other + _ENTER)

    def leave(self) -> None:
        """Give the terminal back for good. It may be gone."""
        self._left = True
        self._restore()

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Give the terminal back and stop, as Ctrl-Z does; SIGCONT takes it over again."""
        with _undisturbed():
            self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here the program goes on, or did not stop, as one without a shell above it.
        signal.signal(signal.SIGTSTP, self.stop)
        self.enter()

    def _restore(self) -> None:
        self._is_shown = False
        with suppress(OSError, OutputError, termios.error):
            termios.tcflow(1, termios.TCOON)  # a person may have stopped the output with Ctrl-S
            _write(_LEAVE)
        if self._settings is not None and self.keyboard is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self.keyboard, termios.TCSANOW, self._settings)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait until the end of the block."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTSTP, *_ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise Ended(number)


def _die(number: int) -> None:
    """End by a signal, so that whoever waits for this program sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write(text: str) -> None:
    """Write to the terminal, past the buffer of standard output: an interrupted frame must not be written later.

    Raises:
        OutputError: It cannot be written.
    """
    data = text.encode(sys.stdout.encoding, "backslashreplace")
    while data:
        try:
            data = data[os.write(1, data) :]
        except BlockingIOError:
            select.select([], [1], [])
        except OSError as error:
            raise OutputError(1, error) from error

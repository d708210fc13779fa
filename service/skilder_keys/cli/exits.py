"""The exit codes, and how a command fails. `skilder-keys --help` and docs/command-line.md list the codes too."""

from __future__ import annotations

import re
import sys
from enum import IntEnum

import typer

from skilder_keys.cli.text import Style, styled, visible

_MAX_REASON = 500
_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s@]*@")


class Exit(IntEnum):
    """Exit codes."""

    OK = 0  # done; for `authorize`: granted
    DENIED = 1  # `authorize`: the token was denied; `scan`: there are tokens
    USAGE = 2  # the command or the request is malformed, or too large
    FORBIDDEN = 3  # the caller or the actor may not do this
    NOT_FOUND = 4
    CONFLICT = 5  # something exists already, or is not as expected any more
    UNAVAILABLE = 6  # the service cannot be reached, or cannot decide now
    FAILED = 70  # the service or this command failed
    OUTPUT_LOST = 74  # the output could not be written
    STOPPED = 130  # by Ctrl-C, or because the answer to a question was no
    PIPE_CLOSED = 141  # the program that read the output stopped reading; a shell reports SIGPIPE with this code


def fail(message: str, code: Exit) -> typer.Exit:
    """Report an error on standard error, and return the exception to raise, which ends the command with this code."""
    say(f"{styled('Error:', Style.RED, sys.stderr)} {visible(message, sys.stderr, lines=True)}")
    return typer.Exit(code)


def say(text: str) -> None:
    """Write a line to standard error. Flush standard output first, so that the order is right."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def reason(error: BaseException) -> str:
    """Return the text of an error in one line, without passwords, or the name of its class if it has no text."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    if not text:
        return f"{name} in {reason(error.__cause__)}" if error.__cause__ else name
    text = _PASSWORD.sub(r"\1…@", text)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"

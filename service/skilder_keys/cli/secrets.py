"""Read tokens from files, standard input or a prompt. Never read them from arguments, which other users can see."""

from __future__ import annotations

import codecs
import io
import sys
from getpass import getpass
from typing import TYPE_CHECKING

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.domain.token import TOKEN_PATTERN

if TYPE_CHECKING:
    from pathlib import Path

_MAX_CHARACTERS = 4096
_QUOTES = ('""', "''", "``", "“”", "\u2018\u2019", "«»")
_BLANK = " \t\r\n\f\v\u00a0\u200b\u2060\ufeff\0"
_read: set[str] = set()


def redacted(text: str) -> str:
    """Return a text with every token replaced: those of keys, and those that this process has read from files."""
    for secret in _read:
        text = text.replace(secret, "…")
    return TOKEN_PATTERN.sub("…", text)


def read_token() -> str:
    """Ask for a token without showing it or, if standard input is not a terminal, return its first line with text.

    The input may be UTF-8 or, with a byte order mark, UTF-16. The token may be in quotes. End the command if there is
    no token.
    """
    if sys.stdin.isatty():
        # Typer's own prompt appears before the echo is off, so a token that is pasted quickly would be shown or lost.
        token = _bare(getpass("Token: "))
    else:
        with io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8") as stream:
            token = _first_text(stream)
    if not token:
        raise fail("no token was given: write it to standard input, or start the command in a terminal", Exit.USAGE)
    return token


def token_in(file: Path, hint: str) -> str:
    """Return the token in a file, in the forms that `read_token` accepts.

    End the command with this hint if the file cannot be read, or does not contain exactly one token.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise fail(f"{file}: {error.strerror}; {hint}", Exit.USAGE) from None
    try:
        lines = [line for each in _decoded(content).splitlines() if (line := _bare(each))]
    except UnicodeDecodeError:
        raise fail(f"{file} is not text in UTF-8 or UTF-16; {hint}", Exit.USAGE) from None
    if not lines:
        raise fail(f"{file} is empty and should contain a token; {hint}", Exit.USAGE)
    if len(lines) > 1:
        raise fail(f"{file} has {len(lines)} lines of text and should contain one token; {hint}", Exit.USAGE)
    (token,) = lines
    if len(token) > _MAX_CHARACTERS:
        raise fail(f"{file} has {len(token)} characters, more than a token has; {hint}", Exit.USAGE)
    for position, character in enumerate(token, 1):
        if not "!" <= character <= "~":
            code = f"U+{ord(character):04X}"
            raise fail(f"{file}: character {position} is {code}, which no token has; {hint}", Exit.USAGE)
    _read.add(token)
    return token


def _first_text(stream: io.TextIOWrapper) -> str:
    """Return the first line that is not blank, without waiting for the lines after it."""
    start = stream.buffer.peek(2)[:2]  # type: ignore[attr-defined]  # a BufferedReader has it
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        stream.reconfigure(encoding="utf-16")
    try:
        while line := stream.readline(_MAX_CHARACTERS):
            if token := _bare(line):
                return token
    except UnicodeDecodeError:
        raise fail("standard input is not text in UTF-8 or UTF-16", Exit.USAGE) from None
    return ""


def _decoded(content: bytes) -> str:
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def _bare(text: str) -> str:
    """Return a text without the blanks and quotes around it that copying may add."""
    text = text.strip(_BLANK)
    if len(text) > 1 and text[0] + text[-1] in _QUOTES:
        text = text[1:-1].strip(_BLANK)
    return text

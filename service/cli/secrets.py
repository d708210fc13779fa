"""Reading a token: from standard input or a prompt, never from the arguments, which every user of the machine sees."""

from __future__ import annotations

import sys

import typer


def read_token() -> str:
    """Asks for a token without showing it or, where standard input is no terminal, reads its first line."""
    if sys.stdin.isatty():
        token: str = typer.prompt("Token", hide_input=True)
        return token.strip()
    # Far more than a token has; the rest of a longer line is left alone.
    return sys.stdin.readline(4096).strip()

"""Messages as lines of JSON."""

from __future__ import annotations

import json
import socket
from typing import Any

_READ_BYTES = 2**20


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line. Raises ValueError where there is none."""
    message: dict[str, Any] = json.loads(line)
    return message


def encode_failure(error: Exception, words: str) -> bytes:
    """Return the message that tells the parent why a worker did not start."""
    return encode({"failed": {"kind": type(error).__name__, "message": words}})


def peek(connection: socket.socket) -> dict[str, Any] | None:
    """Return the first message on a socket and leave it there to be read; None where the other process is gone."""
    while (found := connection.recv(_READ_BYTES, socket.MSG_PEEK)) and b"\n" not in found:
        pass  # the rest of it is on its way
    return decode(found.partition(b"\n")[0]) if found else None

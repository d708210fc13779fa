"""Write messages as lines of JSON, and read them."""

from __future__ import annotations

import json
import socket
from typing import Any

_READ_BYTES = 2**20


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line. Raises ValueError if the line is not JSON."""
    message: dict[str, Any] = json.loads(line)
    return message


def encode_failure(error: Exception, reason: str) -> bytes:
    """Return the line that reports to the parent why a worker did not start."""
    return encode({"failed": {"kind": type(error).__name__, "message": reason}})


def peek(connection: socket.socket) -> dict[str, Any] | None:
    """Return the first message on a socket, without removing it, or None if the other process has ended."""
    while (found := connection.recv(_READ_BYTES, socket.MSG_PEEK)) and b"\n" not in found:
        pass  # wait for the rest of the line
    return decode(found.partition(b"\n")[0]) if found else None

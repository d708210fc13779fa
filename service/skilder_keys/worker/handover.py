"""Hand a worker's port over to its successor without losing a call (Linux).

gRPC asks clients to reconnect while it still serves them in one case only: when a connection reaches its maximum age.
`server.stop` also sends GOAWAY, but then it rejects calls that clients sent before they received it, and it resets
connections that wait to be accepted. So the old worker makes Linux give all new connections to its successor, and
serves its own connections until each has reached its maximum age. After that, stopping affects no client.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from skilder_keys.transports.connections import longest_handover

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTLE_SECONDS = 1.0
_POLL_SECONDS = 0.1

_SO_ATTACH_REUSEPORT_CBPF = 51  # from asm-generic/socket.h; Python has no name for it
_BPF_RET_K = 0x06


async def hand_over(port: int, successor: int, max_connection_age: float) -> None:
    """Give new connections to the successor, and wait until this process has no connection to the port left.

    Return at the latest when every connection has reached its maximum age.

    Args:
        port: The port that this process serves on.
        successor: Which socket gets new connections: its position among those that listen on the port, in the order in
            which they began to listen, from 0.
        max_connection_age: The seconds after which gRPC asks clients to reconnect.
    """
    with _sockets_on(port) as found:
        for each in found:
            if _listens(each):
                _steer(each, successor)
    end = time.monotonic() + longest_handover(max_connection_age)
    # Some connections may already belong to this process but wait for gRPC to accept them; they are not visible yet.
    await asyncio.sleep(_SETTLE_SECONDS)
    while _has_connections(port) and time.monotonic() < end:  # noqa: ASYNC110 - gRPC reports no end of a connection
        await asyncio.sleep(_POLL_SECONDS)


def _steer(listening: socket.socket, index: int) -> None:
    """Make Linux give new connections to one of the sockets that share a port with SO_REUSEPORT.

    Linux keeps the sockets of a port in an array: a new socket is appended, and when a socket is closed, the last one
    takes its index. With an index that does not exist, Linux uses its usual hash. So this rule ends by itself when this
    process closes its socket.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET_K, 0, 0, index))
    # If the kernel does not have this option, new connections may arrive until the end, and are then reset.
    with suppress(OSError):
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(program))
        )


def _has_connections(port: int) -> bool:
    with _sockets_on(port) as found:
        return not all(_listens(each) for each in found)


def _listens(each: socket.socket) -> bool:
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextmanager
def _sockets_on(port: int) -> Iterator[list[socket.socket]]:
    """Yield duplicates of this process's sockets that have this local port. gRPC gives no access to its sockets."""
    with ExitStack() as stack:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            # Skip what is not a socket or was closed in the meantime.
            with suppress(OSError):
                if str(entry.readlink()).startswith("socket:"):
                    each = stack.enter_context(_duplicate(int(entry.name)))
                    if each.family in {socket.AF_INET, socket.AF_INET6} and each.getsockname()[1] == port:
                        found.append(each)
        yield found


def _duplicate(descriptor: int) -> socket.socket:
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise

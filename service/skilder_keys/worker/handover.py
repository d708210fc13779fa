"""How a worker leaves without the loss of a call, once its successor serves on the same port (Linux).

gRPC has no way to tell clients to go while it still serves them, except one: a connection that has reached its greatest
age. `server.stop` tells them too, but from that moment on refuses what they have sent before they heard of it, and
resets connections that wait to be accepted. So a worker that leaves has Linux give new connections to its successor,
and serves on until all of its own have come of age; then there is nobody left whom stopping could hurt.
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

_SO_ATTACH_REUSEPORT_CBPF = 51  # of asm-generic/socket.h; Python has no name for it
_BPF_RET_K = 0x06


async def hand_over(port: int, successor: int, max_connection_age: float) -> None:
    """Returns once no connection to the port is left in this process, or all have had the time to come of age.

    Args:
        port: Where this process serves.
        successor: Which of the sockets that listen on the port, in the order in which they began, takes new ones.
        max_connection_age: Seconds after which gRPC tells clients to connect anew.
    """
    with _sockets_on(port) as found:
        for each in found:
            if _listens(each):
                _steer(each, successor)
    end = time.monotonic() + longest_handover(max_connection_age)
    # Connections that are being made now were given to this process before, and are not seen until they are accepted.
    await asyncio.sleep(_SETTLE_SECONDS)
    while _has_connections(port) and time.monotonic() < end:  # noqa: ASYNC110 - gRPC tells nobody of the last one's end
        await asyncio.sleep(_POLL_SECONDS)


def _steer(listening: socket.socket, index: int) -> None:
    """Has Linux give new connections to one of the sockets that share a port by SO_REUSEPORT.

    The sockets of a port stand in a row: a new one comes last, and where one is closed, the last takes its place. An
    index that is none goes by the usual hash; so the rule ends by itself when this process closes its socket.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET_K, 0, 0, index))
    # Where the kernel has no such option, a few connections may come in until the end, and be reset then.
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
    """Lends duplicates of this process's sockets with a local port; gRPC keeps its own to itself."""
    with ExitStack() as stack:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            # What is no socket, or was closed a moment ago, is passed over.
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

"""The address of a server. The parent reserves it for as long as it runs, so that only its workers serve there."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from skilder_keys.transports.listening import ListenError, addresses_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reserve_port(address: str) -> Iterator[str]:
    """Reserve HOST:PORT on every address of the host; yield it with the port that port 0 became.

    The sockets do not listen. The workers bind the same with SO_REUSEPORT, which Linux grants to processes of one
    user that all ask for it.

    Raises:
        ListenError: It is taken, or not ours.
    """
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        number = int(port)
        holders: list[socket.socket] = []
        missing: list[OSError] = []
        try:
            for family, place in addresses_of(host):
                try:
                    holders.append(stack.enter_context(_hold(family, (place, number))))
                except OSError as error:
                    # A name such as localhost may have an address that this machine has not.
                    if error.errno == errno.EADDRINUSE:
                        raise
                    missing.append(error)
                else:
                    number = holders[0].getsockname()[1]
            if not holders:
                raise missing[0]
        except OSError as error:
            raise ListenError(f"Cannot serve on {address}: {error.strerror or error}") from error
        yield f"{host}:{number}"


def _hold(family: socket.AddressFamily, place: tuple[str, int]) -> socket.socket:
    """Binds a socket with SO_REUSEPORT that does not listen, where no other program has one."""
    with _new_socket(family) as probe:
        # Linux tells a socket without SO_REUSEPORT of anybody who has the address; for certain only when it listens,
        # as SO_REUSEADDR has to let the connections pass that an earlier server has closed.
        probe.bind(place)
        probe.listen()
        # From here on there is always one of the two, so a second server finds the address taken at every moment.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder = _new_socket(family)
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(probe.getsockname())
            # What does not listen and has SO_REUSEADDR would be in nobody's way.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            holder.close()
            raise
    return holder


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # As gRPC does: [::] serves IPv4 too.
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made

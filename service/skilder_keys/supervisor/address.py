"""Reserve a server's address. The parent holds it for as long as it runs, so that only its workers can serve on it."""

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
    """Reserve HOST:PORT on every IP address of the host, and yield HOST:PORT with the port that port 0 became.

    The sockets do not listen. The workers bind the same addresses with SO_REUSEPORT. Linux allows this to processes of
    one user, if every one of them sets SO_REUSEPORT.

    Raises:
        ListenError: The address is in use, or this machine does not have it.
    """
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        number = int(port)
        reserved: list[socket.socket] = []
        failures: list[OSError] = []
        try:
            for family, ip in addresses_of(host):
                try:
                    reserved.append(stack.enter_context(_reserve(family, (ip, number))))
                except OSError as error:
                    # A name such as localhost may resolve to an address that this machine does not have.
                    if error.errno == errno.EADDRINUSE:
                        raise
                    failures.append(error)
                else:
                    number = reserved[0].getsockname()[1]
            if not reserved:
                raise failures[0]
        except OSError as error:
            raise ListenError(f"Cannot serve on {address}: {error.strerror or error}") from error
        yield f"{host}:{number}"


def _reserve(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """Return a bound socket that does not listen and has SO_REUSEPORT. Raise OSError if the address is in use."""
    with _new_socket(family) as probe:
        # Without SO_REUSEPORT the probe fails if any program has the address. Only listen() is sure to fail: bind()
        # may pass, because SO_REUSEADDR has to tolerate the closed connections of an earlier server.
        probe.bind(address)
        probe.listen()
        # From here on one of the two sockets is always bound, so a second server finds the address in use at any time.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved = _new_socket(family)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(probe.getsockname())
            # With SO_REUSEADDR, a socket that does not listen would not keep any other program off the address.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            reserved.close()
            raise
    return reserved


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    new = socket.socket(family, socket.SOCK_STREAM)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::] serves IPv4 too, as it does in gRPC's server.
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return new

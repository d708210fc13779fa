"""The addresses that a server listens on."""

from __future__ import annotations

import socket


class ListenError(Exception):
    """The service cannot listen on the address."""


def addresses_of(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return every IP address of a host with its address family, as the machine's resolver knows them.

    Raises:
        OSError: The host has no address.
    """
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def listening_sockets(address: str, *, reuse_port: bool = False, backlog: int | None = None) -> list[socket.socket]:
    """Return sockets that listen on every IP address of a host, all on the same port.

    Args:
        address: HOST:PORT; port 0 is any free one.
        reuse_port: Whether other processes of this user may listen on the same port.
        backlog: How many connections may wait until they are taken; None for Python's default.

    Raises:
        OSError: The port is in use, or this machine has none of the addresses.
    """
    host, _, port = address.rpartition(":")
    number = int(port)
    found: list[socket.socket] = []
    failures: list[OSError] = []
    for family, ip in addresses_of(host):
        try:
            # [::] serves IPv4 too, as it does for gRPC calls.
            dual = ip == "::" and socket.has_dualstack_ipv6()
            made = socket.create_server(
                (ip, number), family=family, backlog=backlog, reuse_port=reuse_port, dualstack_ipv6=dual
            )
        except OSError as error:
            # A name such as localhost may resolve to an address that this machine does not have.
            failures.append(error)
        else:
            found.append(made)
            number = made.getsockname()[1]
    if not found:
        raise failures[0]
    return found

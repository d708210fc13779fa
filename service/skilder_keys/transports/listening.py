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

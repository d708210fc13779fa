"""The listening address, which the parent reserves for its workers."""

from __future__ import annotations

import socket

import pytest

from skilder_keys.supervisor.address import reserve_port
from skilder_keys.transports.listening import ListenError


def port_of(address: str) -> int:
    """Return the port of an address."""
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::]", "0.0.0.0"])  # noqa: S104 - nothing is served
def test_a_reserved_address_cannot_be_taken(host: str) -> None:
    """Neither by a second server nor by any other program. It is free again afterwards."""
    with reserve_port(f"{host}:0") as address:
        assert address.startswith(f"{host}:")
        with (
            pytest.raises(ListenError, match=f"Cannot serve on .*:{port_of(address)}: Address already in use"),
            reserve_port(address),
        ):
            pass
        family = socket.AF_INET6 if "[" in host else socket.AF_INET
        with pytest.raises(OSError, match="in use"):
            socket.create_server((host.strip("[]"), port_of(address)), family=family)
    with reserve_port(address) as again:
        assert again == address


def test_workers_share_the_reserved_address() -> None:
    """Sockets of the same user with SO_REUSEPORT can share it. Clients never reach the reserving socket."""
    with reserve_port("127.0.0.1:0") as address:
        place = ("127.0.0.1", port_of(address))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        with socket.create_server(place, reuse_port=True), socket.create_server(place, reuse_port=True):
            socket.create_connection(place).close()
            with pytest.raises(ListenError), reserve_port(address):
                pass


def test_closed_connections_of_an_earlier_server_do_not_block_a_start() -> None:
    """They stay in TIME_WAIT for a minute, and a restart must not wait for them."""
    with socket.create_server(("127.0.0.1", 0)) as earlier:
        place = earlier.getsockname()
        with socket.create_connection(place):
            earlier.accept()[0].close()
    with reserve_port(f"127.0.0.1:{place[1]}") as address:
        assert port_of(address) == place[1]


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    """An address of another machine, or of none, is an error that names it."""
    with pytest.raises(ListenError, match=f"Cannot serve on {host}:1234: "), reserve_port(f"{host}:1234"):
        pass

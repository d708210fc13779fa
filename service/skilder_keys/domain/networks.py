"""IP networks that a key is limited to, and the addresses that are compared with them."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from skilder_keys.domain.fields import Violations

MAX_NETWORKS = 32

Network = IPv4Network | IPv6Network

# ipaddress takes masks and bare addresses too.
_CIDR = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")
_LONGEST_ADDRESS = 45


class Address(NamedTuple):
    """An address: its IP version, and the number that it is."""

    version: int
    number: int


@lru_cache(maxsize=4096)
def parsed_address(text: str) -> Address:
    """Return an address. One of IPv4 that is mapped into IPv6 (RFC 4291, 2.5.5.2) counts as IPv4.

    Raises:
        ValueError: The text is not an address, or has a port, brackets, a zone or spaces.
    """
    if len(text) > _LONGEST_ADDRESS or "%" in text:
        raise ValueError(text)
    address = ip_address(text)
    if not isinstance(address, IPv4Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Address(address.version, int(address))


def is_address(text: str) -> bool:
    """Return whether a text is an address."""
    try:
        parsed_address(text)
    except ValueError:
        return False
    return True


def check_address(violations: Violations, field: str, text: str) -> None:
    """Check an address, which may be empty."""
    if text and not is_address(text):
        violations.add(
            field, f"is {quoted(text)}, which is not an IPv4 or IPv6 address alone, without a port or a zone"
        )


class Networks:
    """Networks that an address may be in."""

    __slots__ = ("_blocks",)

    def __init__(self, texts: Iterable[str]) -> None:
        """Make them of the texts that are stored with a key."""
        blocks: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in texts:
            network = ip_network(text)
            blocks[network.version].append((int(network.netmask), int(network.network_address)))
        self._blocks = blocks

    def allow(self, text: str) -> bool:
        """Return whether an address is in one of them. A text that is no address, or is empty, is in none."""
        try:
            version, number = parsed_address(text)
        except ValueError:
            return False
        return any(number & mask == first for mask, first in self._blocks[version])


def sorted_networks(networks: Iterable[Network]) -> tuple[str, ...]:
    """Return networks as texts in their usual form, IPv4 first."""
    return tuple(map(str, sorted(networks, key=lambda each: (each.version, int(each.network_address), each.prefixlen))))


def check_networks(violations: Violations, field: str, texts: Collection[str]) -> None:
    """Check the networks that a key is limited to: 1 to 32 blocks in CIDR notation (RFC 4632), each one once."""
    if not texts:
        violations.add(field, "is empty: name the networks, or leave the limit out")
    violations.count(field, texts, maximum=MAX_NETWORKS)
    seen: set[Network] = set()
    for index, text in enumerate(list(texts)[:MAX_NETWORKS]):
        network, fault = _parsed(text)
        if network is None:
            violations.add(f"{field}[{index}]", fault)
        elif network in seen:
            violations.add(f"{field}[{index}]", f"names {network} again")
        else:
            seen.add(network)


def _parsed(text: str) -> tuple[Network | None, str]:
    """Return a network, or None and what is wrong with the text."""
    if not _CIDR.fullmatch(text):
        return None, f"is {quoted(text)}, which is not a network such as 10.1.0.0/16 or 2001:db8::/32"
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None, f"is {quoted(text)}, which is not a network such as 10.1.0.0/16 or 2001:db8::/32"
    if int(ip_address(text.partition("/")[0])) != int(network.network_address):
        return None, f"is {quoted(text)}, which has bits after the first {network.prefixlen}: write {network}"
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
        prefix = max(network.prefixlen - 96, 0)
        return None, f"is {quoted(text)}, which is of IPv4: write {ip_network((mapped, prefix), strict=False)}"
    return network, ""

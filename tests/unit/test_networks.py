"""Networks of a key and addresses: which texts are good, and which address is in which network."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.networks import (
    MAX_NETWORKS,
    Networks,
    check_address,
    check_networks,
    is_address,
    sorted_networks,
)


def faults(texts: tuple[str, ...]) -> dict[str, str]:
    """Return what is wrong with networks, by place."""
    violations = Violations()
    check_networks(violations, "networks", texts)
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return {each.field: each.description for each in error.violations}
    return {}


@pytest.mark.parametrize(
    "texts",
    [
        ("10.0.0.0/8",),
        ("0.0.0.0/0", "::/0"),
        ("192.0.2.7/32", "2001:db8::7/128"),
        ("2001:DB8::/32", "fe80:0:0:0::/10"),
        ("64:ff9b::/96",),
        tuple(f"10.{n}.0.0/16" for n in range(MAX_NETWORKS)),
    ],
)
def test_good_networks_pass(texts: tuple[str, ...]) -> None:
    """Of both versions, up to 32, in any spelling of IPv6; and what contains IPv4 by other means than mapping."""
    assert faults(texts) == {}


@pytest.mark.parametrize(
    ("texts", "place", "words"),
    [
        ((), "networks", "is empty: name the networks, or leave the limit out"),
        (tuple(f"10.{n}.0.0/16" for n in range(33)), "networks", "has 33 elements; at most 32 are allowed"),
        (("10.0.0.0/8", "10.0.0.0/8"), "networks[1]", "names 10.0.0.0/8 again"),
        (("2001:db8::/32", "2001:0db8:0::/32"), "networks[1]", "names 2001:db8::/32 again"),
        (("10.1.2.3/8",), "networks[0]", "is '10.1.2.3/8', which has bits after the first 8: write 10.0.0.0/8"),
        (("2001:db8::1/32",), "networks[0]", "which has bits after the first 32: write 2001:db8::/32"),
        (("::ffff:10.0.0.0/104",), "networks[0]", "which is of IPv4: write 10.0.0.0/8"),
        (("::ffff:0:0/96",), "networks[0]", "which is of IPv4: write 0.0.0.0/0"),
        *(
            ((text,), "networks[0]", "which is not a network such as 10.1.0.0/16 or 2001:db8::/32")
            for text in (
                "10.0.0.0",
                "10.0.0.0/33",
                "10.0.0.0/255.0.0.0",
                "10.0.0.0/-1",
                "10.0.0/8",
                "010.0.0.0/8",
                "256.0.0.0/8",
                " 10.0.0.0/8",
                "10.0.0.0/8 ",
                "10.0.0.0/\N{FULLWIDTH DIGIT EIGHT}",
                "fe80::%eth0/64",
                "2001:db8::/129",
                "/8",
                "",
                "example.com/8",
            )
        ),
    ],
)
def test_a_bad_network_is_named(texts: tuple[str, ...], place: str, words: str) -> None:
    """With what to write instead, where that is clear."""
    found = faults(texts)
    assert list(found) == [place]
    assert words in found[place]


@pytest.mark.parametrize(
    "text", ["10.1.2.3", "2001:db8::1", "::1", "::ffff:10.1.2.3", "2001:DB8:0:0:0:0:0:1", "255.255.255.255"]
)
def test_good_addresses_pass(text: str) -> None:
    """Of both versions. An empty one is none."""
    violations = Violations()
    check_address(violations, "source_ip", text)
    check_address(violations, "source_ip", "")
    assert not violations
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3:443", "[::1]", "[::1]:443", "fe80::1%eth0", "10.1.2", "10.1.2.3/32", " 10.1.2.3", "10.1.2.3\n",
        "localhost", "010.1.2.3", "10.1.2.256", "x" * 100, "1" * 5000, "::ffff:10.1.2.3%1", "ipv4:10.1.2.3",
    ],
)  # fmt: skip
def test_a_bad_address_is_refused(text: str) -> None:
    """It is not cut to what might be meant, and it is in no network."""
    violations = Violations()
    check_address(violations, "source_ip", text)
    with pytest.raises(InvalidRequestError, match="which is not an IPv4 or IPv6 address alone"):
        violations.raise_if_any()
    assert not Networks(("0.0.0.0/0", "::/0")).allow(text)


def test_an_address_is_in_networks_of_its_own_version() -> None:
    """One of IPv4 that is mapped into IPv6 counts as IPv4. An empty text is nowhere."""
    four, six, both = Networks(("10.0.0.0/8",)), Networks(("2001:db8::/32",)), Networks(("0.0.0.0/0", "::/0"))
    for text, expected in (
        ("10.255.255.255", (True, False, True)),
        ("::ffff:10.1.2.3", (True, False, True)),
        ("::ffff:a01:203", (True, False, True)),
        ("::10.1.2.3", (False, False, True)),
        ("11.0.0.0", (False, False, True)),
        ("2001:db8:ffff::1", (False, True, True)),
        ("2001:db9::", (False, False, True)),
        ("", (False, False, False)),
    ):
        assert tuple(each.allow(text) for each in (four, six, both)) == expected, text
    assert not Networks(("::/0",)).allow("10.1.2.3")
    assert not Networks(("0.0.0.0/0",)).allow("::1")


@settings(deadline=None)
@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_the_rule_is_that_of_ipaddress(address: object, base: object, prefix: int) -> None:
    """For any address and any network, but for mapped addresses."""
    one, other = ip_address(str(address)), ip_address(str(base))
    network = ip_network(f"{other}/{min(prefix, other.max_prefixlen)}", strict=False)
    mapped = getattr(one, "ipv4_mapped", None) or one
    assert Networks((str(network),)).allow(str(one)) == (mapped.version == network.version and mapped in network)


def test_networks_are_shown_in_their_usual_form_and_order() -> None:
    """IPv4 first, then by address and size, whatever the order was."""
    texts = ("2001:db8:0::/48", "::/0", "10.0.0.0/9", "10.0.0.0/8", "2.0.0.0/8")
    expected = ("2.0.0.0/8", "10.0.0.0/8", "10.0.0.0/9", "::/0", "2001:db8::/48")
    assert sorted_networks(map(ip_network, texts)) == expected

"""What Envoy reports about a client."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from skilder_keys.transports.forwarded import certificate_names, peer
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("cryptography")


def forwarded(folder: Path, *names: str) -> str:
    """Return Envoy's header for a client whose certificate has these alternative names."""
    certificate = Authority(folder, "authority").issue("client", *names).certificate.read_text("ascii")
    return f'Hash={"0" * 64};Cert="{quote(certificate, safe="")}"'


def test_every_kind_of_certificate_name_is_read(tmp_path: Path) -> None:
    """With the same names and order as grpcio reports."""
    names = (
        "DNS:a.example",
        "URI:spiffe://acme.example/gateway",
        "IP:192.0.2.1",
        "IP:2001:db8::1",
        "email:a@b.c",
    )
    reported = ("a.example", "spiffe://acme.example/gateway", "192.0.2.1", "2001:db8::1", "a@b.c")
    assert certificate_names(forwarded(tmp_path, *names)) == reported


def test_a_name_with_separators_is_still_one_name(tmp_path: Path) -> None:
    """Envoy's own list of names would split it in two."""
    assert certificate_names(forwarded(tmp_path, "URI:spiffe://a;DNS=admin.example")) == (
        "spiffe://a;DNS=admin.example",
    )


@pytest.mark.parametrize(
    "header",
    ["", "Hash=00", "URI=spiffe://acme.example/gateway;DNS=a.example", 'Cert=""', 'Cert="rubbish"', 'xCert="rubbish"'],
)
def test_a_header_without_a_certificate_gives_no_name(header: str) -> None:
    """Even where it claims to have names."""
    assert certificate_names(header) == ()


def test_a_certificate_without_alternative_names_gives_none(tmp_path: Path) -> None:
    """Its subject does not count as a name."""
    assert certificate_names(forwarded(tmp_path)) == ()


def test_addresses_are_spelled_as_grpcio_does() -> None:
    """For IPv4 and IPv6."""
    assert peer("192.0.2.1:50051") == "ipv4:192.0.2.1:50051"
    assert peer("[2001:db8::1]:50051") == "ipv6:%5B2001:db8::1%5D:50051"

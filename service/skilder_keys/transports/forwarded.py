"""What Envoy tells of a client: in headers that it sets itself, whatever the client has sent."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

CERTIFICATE_HEADER = "x-forwarded-client-cert"
"""Holds the client's certificate, once Envoy has verified it."""

PEER_HEADER = "x-forwarded-peer"
"""Holds the client's address, HOST:PORT."""

_CERTIFICATE = re.compile(r'(?:^|;)Cert="([^"]*)"')


@lru_cache(maxsize=1024)
def certificate_names(forwarded: str) -> tuple[str, ...]:
    """Answers the subject alternative names in a client's certificate, as grpcio does; none without a certificate.

    They are read from the certificate itself: Envoy could tell them, but between characters that may stand in a name.

    Args:
        forwarded: The header of the certificate, as Envoy sets it.
    """
    found = _CERTIFICATE.search(forwarded)
    if found is None:
        return ()
    # Only whoever has the transport in Envoy has it.
    from cryptography import x509  # noqa: PLC0415

    try:
        certificate = x509.load_pem_x509_certificate(unquote(found[1]).encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    told = (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name, x509.IPAddress)
    return tuple(str(name.value) for name in names if isinstance(name, told))


def peer(address: str) -> str:
    """Answers an address HOST:PORT as grpcio's `peer` spells it."""
    if address.startswith("["):
        return f"ipv6:{address.replace('[', '%5B').replace(']', '%5D')}"
    return f"ipv4:{address}"

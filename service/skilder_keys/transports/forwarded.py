"""Read what Envoy reports about a client. Envoy sets these headers itself, and replaces what the client has sent."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

CERTIFICATE_HEADER = "x-forwarded-client-cert"
"""Holds the client's certificate, if Envoy has verified one."""

PEER_HEADER = "x-forwarded-peer"
"""Holds the client's address, HOST:PORT."""

_CERTIFICATE = re.compile(r'(?:^|;)Cert="([^"]*)"')


@lru_cache(maxsize=1024)
def certificate_names(forwarded: str) -> tuple[str, ...]:
    """Return the subject alternative names in a client's certificate, as grpcio does. Without one, return no names.

    Read them from the certificate itself: Envoy could send the names, but with separators that a name may contain.

    Args:
        forwarded: The value of `CERTIFICATE_HEADER`.
    """
    found = _CERTIFICATE.search(forwarded)
    if found is None:
        return ()
    from cryptography import x509  # noqa: PLC0415 - only installed with the Envoy transport

    try:
        certificate = x509.load_pem_x509_certificate(unquote(found[1]).encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    kinds = (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name, x509.IPAddress)
    return tuple(str(name.value) for name in names if isinstance(name, kinds))


def peer(address: str) -> str:
    """Return an address HOST:PORT in the form of grpcio's `peer`."""
    if address.startswith("["):
        return f"ipv6:{address.replace('[', '%5B').replace(']', '%5D')}"
    return f"ipv4:{address}"

"""Certificates for tests of TLS, made with the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, PEM, each in a file."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority for one test, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make the authority's key and certificate. Skip the test where `openssl` is missing."""
        self._folder = folder
        self.root = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
        self._openssl("req", "-x509", *_NEW_KEY, self.root.key, "-out", self.root.certificate, "-subj", f"/CN={name}")

    def issue(self, name: str, *alternative_names: str) -> Certificate:
        """Return a certificate with these subject alternative names, e.g. `DNS:gateway.example`."""
        issued = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName = {', '.join(alternative_names)}\n" if alternative_names else "")
        self._openssl("req", *_NEW_KEY, issued.key, "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", self.root.certificate, "-CAkey", self.root.key, "-CAcreateserial", "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, *signing, "-out", issued.certificate, "-days", "1")
        return issued

    def credentials(self, client: Certificate | None = None) -> grpc.ChannelCredentials:
        """Return the credentials of a client that trusts this authority, with a certificate if `client` is given."""
        if client is None:
            return grpc.ssl_channel_credentials(self.root.certificate.read_bytes())
        return grpc.ssl_channel_credentials(
            self.root.certificate.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes()
        )

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        command = shutil.which("openssl")
        if command is None:
            pytest.skip("openssl is needed but was not found (Debian: apt-get install openssl)")
        subprocess.run([command, *arguments], check=True, capture_output=True)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")

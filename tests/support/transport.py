"""The transports that the tests use."""

from __future__ import annotations

from functools import cache

import pytest

from skilder_keys.transports.envoy.process import EnvoyMissingError, installed

ONLY_GRPCIO = pytest.mark.parametrize("transport", ["grpcio"], indirect=True)
"""Marks a test that does not depend on the transport, or that changes something in this process."""

GRPCIO_IF_SHORT = pytest.mark.grpcio_if_short
"""Marks a test whose subject is not the transport, which only carries its bytes: the short form runs it with grpcio."""


@cache
def why_unavailable(transport: str) -> str:
    """Return why a transport cannot be used here, or an empty text where it can."""
    if transport == "grpcio":
        return ""
    try:
        installed()
    except EnvoyMissingError as error:
        return str(error)
    return ""

"""The transports that the tests use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeGuard
from zlib import crc32

import pytest

from skilder_keys.transports.envoy.process import EnvoyMissingError, installed

if TYPE_CHECKING:
    from collections.abc import Collection

ONLY_GRPCIO = pytest.mark.parametrize("transport", ["grpcio"], indirect=True)
"""Marks a test that does not depend on the transport, or that changes something in this process."""

GRPCIO_IF_SHORT = pytest.mark.grpcio_if_short
"""Marks a test whose subject is not the transport, which only carries its bytes.

The short form runs it with grpcio, the long one runs each case with one of the transports, and the longest with both.
"""


def with_envoy_if_short(**chosen: Collection[object]) -> pytest.MarkDecorator:
    """Mark a test whose cases reach the transport in few ways: the short form runs with Envoy only those chosen.

    Args:
        chosen: For one parameter of the test, the values to run with Envoy.
    """
    return pytest.mark.with_envoy_if_short(**chosen)


def is_for_the_long_form(test: pytest.Item) -> bool:
    """Return whether the mark `with_envoy_if_short` leaves a case to the long form."""
    mark = test.get_closest_marker("with_envoy_if_short")
    if mark is None or not _has_parameters(test):
        return False
    given = test.callspec.params
    return given.get("transport", given.get("served")) == "envoy" and any(
        given[name] not in chosen for name, chosen in mark.kwargs.items()
    )


def chooses_a_transport(test: pytest.Item) -> bool:
    """Return whether a test says itself with which transports it runs."""
    return any("transport" in mark.args[0] for mark in test.iter_markers("parametrize"))


def is_for_the_longest_form(test: pytest.Item) -> bool:
    """Return whether a case of a test marked `grpcio_if_short` is one that the long form runs with another transport.

    Which transport carries a case depends on the names of the test and the case, so each carries half of all of them.
    """
    if test.get_closest_marker("grpcio_if_short") is None or chooses_a_transport(test) or why_unavailable("envoy"):
        return False
    transport = test.callspec.params.get("transport") if _has_parameters(test) else None
    if transport is None:
        return False
    name, _, case = test.nodeid.partition("[")
    return transport != ("grpcio", "envoy")[crc32((name + case.replace(str(transport), "", 1)).encode()) % 2]


def _has_parameters(test: pytest.Item) -> TypeGuard[pytest.Function]:
    return hasattr(test, "callspec")


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

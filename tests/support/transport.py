"""The transports that the tests use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeGuard

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
    if mark is None or not has_parameters(test):
        return False
    given = test.callspec.params
    return given.get("transport", given.get("served")) == "envoy" and any(
        given[name] not in chosen for name, chosen in mark.kwargs.items()
    )


def chooses_a_transport(test: pytest.Item) -> bool:
    """Return whether a test says itself with which transports it runs."""
    return any("transport" in mark.args[0] for mark in test.iter_markers("parametrize"))


def has_parameters(test: pytest.Item) -> TypeGuard[pytest.Function]:
    """Return whether a test is a case, with parameters."""
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

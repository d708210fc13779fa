"""Cases that take turns: the long form runs each with one transport and on one Postgres, the longest with both."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from tests.support.service import TRANSPORTS
from tests.support.stock import binaries
from tests.support.transport import chooses_a_transport, has_parameters, why_unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


SERVERS = ("own_postgres", "stock_postgres")
"""The Postgres of the session, and a stock one."""


def is_for_the_longest_form(test: pytest.Item) -> bool:
    """Return whether a case is one that the long form runs with another transport, or on the other Postgres.

    These are cases of tests marked `grpcio_if_short` or `stock_too(in_turn=True)`. Which transport and Postgres a case
    has depends on the names of the test and the case, so each has about half of all of them.
    """
    if not has_parameters(test):
        return False
    given = test.callspec.params
    if _shares_transports(test) and "transport" in given and not _has_turn(test, str(given["transport"]), TRANSPORTS):
        return True
    return _shares_servers(test) and not _has_turn(test, str(given["postgres_url"]), SERVERS)


def _shares_transports(test: pytest.Item) -> bool:
    marked = test.get_closest_marker("grpcio_if_short") is not None
    return marked and not chooses_a_transport(test) and not why_unavailable("envoy")


def _shares_servers(test: pytest.Item) -> bool:
    mark = test.get_closest_marker("stock_too")
    return mark is not None and mark.kwargs.get("in_turn", False) and binaries() is not None


def _has_turn(test: pytest.Item, value: str, values: Sequence[str]) -> bool:
    """Return whether a case is that of the values to which the rest of its name leads."""
    name, _, case = test.nodeid.partition("[")
    return value == values[crc32((name + case.replace(value, "", 1)).encode()) % len(values)]

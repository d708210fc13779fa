"""The README's table of clients and gateways."""

from __future__ import annotations

import pytest

from tests.docs.clients import CLIENTS, ROOT, locked, table


def test_every_client_has_a_row() -> None:
    """A folder in clients/ with a README is a client."""
    pages = {path.relative_to(ROOT).as_posix() for path in CLIENTS.glob("*/README.md")}
    pages.discard("clients/conformance/README.md")  # the cases that the clients pass
    assert pages
    assert all(f"]({page})" in table() for page in pages)


def test_a_package_that_is_not_locked_has_no_version() -> None:
    """The table cannot be made without it."""
    with pytest.raises(ValueError, match="not enough values"):
        locked("no-such-package")

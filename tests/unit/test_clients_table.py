"""The README's table of clients and gateways."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.docs.clients import CLIENTS, NGINX, ROOT, locked, table


def test_every_client_has_a_row() -> None:
    """A folder in clients/ with a README is a client."""
    pages = {path.relative_to(ROOT).as_posix() for path in CLIENTS.glob("*/README.md")}
    pages.discard("clients/conformance/README.md")  # the cases that the clients pass
    assert pages
    assert all(f"]({page})" in table() for page in pages)


@pytest.mark.skipif("CI" not in os.environ, reason="other machines may have another version")
def test_nginx_has_the_version_of_the_table() -> None:
    """Debian's, of the machine that runs these tests for each change."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nginx is not None, "install nginx (Debian: nginx-light)"
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    assert f"nginx/{NGINX}." in said


def test_a_package_that_is_not_locked_has_no_version() -> None:
    """The table cannot be made without it."""
    with pytest.raises(ValueError, match="not enough values"):
        locked("no-such-package")

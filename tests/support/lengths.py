"""Short and long forms of tests: the same checks, for longer or on more cases, where SKILDER_KEYS_TEST_LONG is set."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

VARIABLE = "SKILDER_KEYS_TEST_LONG"
LONG = os.environ.get(VARIABLE, "") not in {"", "0"}

ONLY_IF_LONG = pytest.mark.skipif(not LONG, reason=f"takes seconds of the processor: set {VARIABLE}=1")
"""Marks a test whose subject others have in small: only the long form runs it."""

Length = TypeVar("Length")


def by_form(short: Length, long: Length) -> Length:
    """Return what the form of this run asks for."""
    return long if LONG else short

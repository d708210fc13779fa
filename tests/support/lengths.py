"""Forms of tests: the same checks, for longer or on more cases, by SKILDER_KEYS_TEST_LONG.

Without it, tests take their short form. With 1 they take the long one, as in CI, and with 2 the longest, which takes
about twice that.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection

VARIABLE = "SKILDER_KEYS_TEST_LONG"
_LENGTH = os.environ.get(VARIABLE, "")
LONG = _LENGTH not in {"", "0"}
LONGEST = _LENGTH == "2"

ONLY_IF_LONG = pytest.mark.skipif(not LONG, reason=f"takes seconds of the processor: set {VARIABLE}=1")
"""Marks a test whose subject others have in small: only the long form runs it."""

Length = TypeVar("Length")


def by_form(short: Length, long: Length, *longest: Length) -> Length:
    """Return what the form of this run asks for; the longest is the long one unless it is given."""
    if LONGEST and longest:
        return longest[0]
    return long if LONG else short


def some_of(cases: Collection[Length], count: int) -> list[Length]:
    """Return so many of the cases, by chance: other ones in each run, and the same ones in all processes of a run."""
    chance = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))  # noqa: S311 - not a secret
    return chance.sample(list(cases), count)

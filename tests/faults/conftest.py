"""Fixtures of the tests of `faults`."""

import pytest

from tests.support.hand_made_history import Run


@pytest.fixture
def run() -> Run:
    """A history with a workspace and a key."""
    return Run()

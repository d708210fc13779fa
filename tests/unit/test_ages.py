"""Times as people give them to the options that choose keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from skilder_keys.cli.key_filters import past


@pytest.mark.parametrize(
    ("text", "age"), [("90d", timedelta(days=90)), ("12h", timedelta(hours=12)), ("2w", timedelta(weeks=2))]
)
def test_a_length_of_time_is_one_ago(text: str, age: timedelta) -> None:
    """By the clock of the command."""
    before = datetime.now(UTC)
    assert before <= past(text) + age <= datetime.now(UTC)
    assert past("2026-07-01") == datetime(2026, 7, 1, tzinfo=UTC)

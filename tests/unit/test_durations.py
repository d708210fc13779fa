"""Lengths of time: as people write them, as messages show them, and their bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from skilder_keys.cli.durations import duration, moment
from skilder_keys.domain.durations import MAX_LIFETIME, check_expiry, check_length, in_words
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)


def faults(violations: Violations) -> list[str]:
    """Return what is wrong."""
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return [f"{each.field} {each.description}" for each in error.violations]
    return []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        (" 12h ", timedelta(hours=12)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(days=14)),
        ("0s", timedelta()),
    ],
)
def test_people_write_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    """One unit each."""
    assert duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "d", "-1d", "1.5h", "1d12h", "1 d", "90D", "1y", "10M", "9" * 10 + "s", "٣d"]
)
def test_another_text_is_no_length_of_time(text: str) -> None:
    """The error shows how to write one."""
    with pytest.raises(typer.BadParameter, match="write one as 45s, 30m, 12h, 90d or 2w"):
        duration(text)


def test_a_time_is_in_utc_unless_it_says_otherwise() -> None:
    """A date is its first moment."""
    assert moment("2027-01-31") == datetime(2027, 1, 31, tzinfo=UTC)
    assert moment("2027-01-31T18:00") == moment("2027-01-31 18:00Z") == datetime(2027, 1, 31, 18, tzinfo=UTC)
    assert moment("2027-01-31T18:00+01:00") == datetime(2027, 1, 31, 18, tzinfo=timezone(timedelta(hours=1)))
    for text in ("", "tomorrow", "31.01.2027", "2027-02-30"):
        with pytest.raises(typer.BadParameter, match="is not a time"):
            moment(text)


def test_lengths_are_shown_in_days_or_seconds() -> None:
    """Whichever is exact."""
    shown = [in_words(timedelta(seconds=each)) for each in (86400, 172800, 90000, 1, 0, -5, 0.000001, -86400)]
    assert shown == ["1 day", "2 days", "90000 s", "1 s", "0 s", "-5 s", "1e-06 s", "-1 day"]
    assert in_words(MAX_LIFETIME) == "3653 days"


def test_a_length_is_within_its_bounds() -> None:
    """Which belong to it."""
    least, most = timedelta(seconds=1), timedelta(days=2)
    for length, good in ((least, True), (most, True), (timedelta(), False), (most + timedelta(microseconds=1), False)):
        violations = Violations()
        check_length(violations, "grace", length, least, most)
        assert (faults(violations) == []) is good
    assert faults(violations) == ["grace is 172800.000001 s; 1 s to 2 days are allowed"]


def test_a_key_expires_in_the_future_and_within_ten_years() -> None:
    """By the time that is given. A key that expires at this very moment would never be valid."""
    for expires_at, good in (
        (NOW, False),
        (NOW - timedelta(days=1), False),
        (NOW + timedelta(microseconds=1), True),
        (NOW + MAX_LIFETIME, True),
        (NOW + MAX_LIFETIME + timedelta(microseconds=1), False),
        (datetime(9999, 12, 31, tzinfo=UTC), False),
    ):
        violations = Violations()
        check_expiry(violations, "expires_at", expires_at, NOW)
        assert (faults(violations) == []) is good, expires_at
    past = Violations()
    check_expiry(past, "expires_at", NOW, NOW)
    assert faults(past) == [
        "expires_at is 2026-11-26T09:00:00+00:00, which is past: it is 2026-11-26T09:00:00+00:00 now"
    ]

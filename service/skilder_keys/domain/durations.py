"""Lengths of time that people choose, and times that follow from them."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.fields import Violations

MIN_LIFETIME = timedelta(seconds=1)
MAX_LIFETIME = timedelta(days=3653)
"""Ten years."""


def in_words(length: timedelta) -> str:
    """Return a length of time in days or seconds, whichever is exact and shorter to read."""
    days, rest = divmod(length, timedelta(days=1))
    if days and not rest:
        return f"{days} day{'s' if abs(days) > 1 else ''}"
    return f"{length.total_seconds():.15g} s"


def check_length(violations: "Violations", field: str, length: timedelta, least: timedelta, most: timedelta) -> None:
    """Check that a length of time is within bounds."""
    if not least <= length <= most:
        violations.add(field, f"is {in_words(length)}; {in_words(least)} to {in_words(most)} are allowed")


def check_expiry(violations: "Violations", field: str, expires_at: datetime, now: datetime) -> None:
    """Check that a key that expires then has a lifetime within bounds.

    Args:
        violations: Where a time out of bounds is added.
        field: The name of the time.
        expires_at: The time.
        now: The time by the database's clock.
    """
    if expires_at <= now:
        violations.add(field, f"is {expires_at.isoformat()}, which is past: it is {now.isoformat()} now")
    elif expires_at - now > MAX_LIFETIME:
        violations.add(field, f"is {expires_at.isoformat()}; at most {in_words(MAX_LIFETIME)} from now are allowed")

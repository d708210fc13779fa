"""Lengths of time as people write them: a number and one unit, such as `90d` or `12h`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_FORM = re.compile(rf"([0-9]{{1,9}})([{''.join(_UNITS)}])")


def duration(text: str) -> timedelta:
    """Return a length of time that a person has written. Raises BadParameter for any other text."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a length of time: write one as 45s, 30m, 12h, 90d or 2w")
    number, unit = match.groups()
    return int(number) * _UNITS[unit]


def shortest(length: timedelta) -> str:
    """Return a length of time with the largest unit that it is a whole number of, such as `90d`."""
    for name, unit in (("d", _UNITS["d"]), ("h", _UNITS["h"]), ("m", _UNITS["m"])):
        if length >= unit and not length % unit:
            return f"{length // unit}{name}"
    return f"{length.total_seconds():.15g}s"


def moment(text: str) -> datetime:
    """Return a time that a person has written: a date, or a date and a time; in UTC without a time zone.

    Raises:
        BadParameter: It is another text.
    """
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time: write one as 2027-01-31, 2027-01-31T18:00Z or 2027-01-31T18:00+01:00"
        ) from None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)

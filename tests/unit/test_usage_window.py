"""Which steps a request for usage covers, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skilder_keys.domain.activity import ActivityFilter, Kept, Span, UsageQuery
from skilder_keys.domain.errors import ActivityRolledUpError, InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import WorkspaceId

NOW = datetime(2026, 11, 26, 18, 30, 20, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0)
DAY = Span.DAY.value
OLDEST = {
    Span.MINUTE: TODAY - 2 * DAY,
    Span.HOUR: datetime(2026, 8, 1, tzinfo=UTC),
    Span.DAY: datetime(2024, 1, 1, tzinfo=UTC),
}
ALL = Kept(NOW, OLDEST, frozenset(), NOW)
"""A service that has removed nothing yet."""
OLD = Kept(NOW, OLDEST, frozenset({Span.MINUTE, Span.HOUR}), NOW)
"""One that has removed minutes and hours."""


def query(step: Span, **times: Any) -> UsageQuery:
    """Return a request for usage."""
    return UsageQuery(ActivityFilter(WorkspaceId("acme"), **times), step, None, 0)


def test_times_are_rounded_to_whole_steps() -> None:
    """Down at the beginning and up at the end, so that none is lost; and nothing is in the future."""
    after, before = NOW - timedelta(hours=5), NOW - timedelta(hours=1)
    found = query(Span.HOUR, after=after, before=before).window(OLD)
    assert found == (after.replace(minute=0, second=0), NOW.replace(minute=0, second=0))
    assert query(Span.HOUR, after=TODAY, before=NOW + 400 * DAY).window(OLD) == (TODAY, Span.HOUR.ceiling(NOW))
    assert query(Span.DAY, after=TODAY).window(OLD) == (TODAY, TODAY + DAY)


def test_without_a_beginning_it_is_as_long_as_can_be() -> None:
    """1,500 steps, or what is kept."""
    start, end = query(Span.HOUR).window(OLD)
    assert (end - start) // Span.HOUR.value == 1500
    assert query(Span.HOUR, before=datetime(2026, 8, 3, tzinfo=UTC)).window(OLD)[0] == OLDEST[Span.HOUR]
    assert query(Span.DAY).window(OLD)[0] == OLDEST[Span.DAY]


@pytest.mark.parametrize(
    ("step", "after", "longer"),
    [
        (Span.MINUTE, TODAY - 2 * DAY - timedelta(minutes=1), "3600s"),
        (Span.MINUTE, datetime(2026, 7, 31, 23, 59, tzinfo=UTC), "86400s"),
        (Span.MINUTE, datetime(1, 1, 1, tzinfo=UTC), "86400s"),
        (Span.HOUR, datetime(2026, 7, 31, 23, 59, tzinfo=UTC), "86400s"),
    ],
)
def test_a_step_that_is_not_kept_is_refused_with_the_shortest_that_is(step: Span, after: datetime, longer: str) -> None:
    """Only if there was something; and that one is not refused."""
    wanted = query(step, after=after, before=after + timedelta(hours=1))
    with pytest.raises(ActivityRolledUpError) as caught:
        wanted.window(OLD)
    assert caught.value.details == {"step": longer}
    wanted.window(ALL)
    query(Span(timedelta(seconds=int(longer[:-1]))), after=after, before=after + timedelta(hours=1)).window(OLD)


def test_the_first_step_that_is_kept_is_not_refused() -> None:
    """To the minute."""
    assert query(Span.MINUTE, after=OLDEST[Span.MINUTE], before=TODAY - DAY).window(OLD)[0] == OLDEST[Span.MINUTE]
    assert query(Span.HOUR, after=OLDEST[Span.HOUR], before=TODAY - 90 * DAY).window(OLD)[0] == OLDEST[Span.HOUR]


def test_too_many_points_are_refused() -> None:
    """1,500 are not."""
    end = Span.MINUTE.ceiling(NOW)
    query(Span.MINUTE, after=end - timedelta(minutes=1500)).window(OLD)
    with pytest.raises(InvalidRequestError, match="is 1501 steps before the end; at most 1500 are allowed"):
        query(Span.MINUTE, after=end - timedelta(minutes=1501)).window(OLD)


@pytest.mark.parametrize("after", [datetime.min, datetime(1969, 12, 31), NOW.replace(tzinfo=None), datetime.max])  # noqa: DTZ901, DTZ001 - UTC below
@pytest.mark.parametrize("before", [datetime.min, NOW.replace(tzinfo=None), datetime.max])  # noqa: DTZ901 - the same
def test_every_time_can_be_asked_for(after: datetime, before: datetime) -> None:
    """From the year 1 to the year 9999."""
    times = {"after": after.replace(tzinfo=UTC), "before": before.replace(tzinfo=UTC)}
    for name in ({"after"}, {"before"}, {"after", "before"}):
        wanted = query(Span.DAY, **{each: times[each] for each in name})
        try:
            start, end = wanted.window(OLD)
        except InvalidRequestError:
            continue
        assert end - start <= 1500 * DAY
        assert len(wanted.filter.minutes(NOW)) >= 0


@pytest.mark.parametrize("top", [-1, 51, 2**31 - 1])
def test_a_wrong_number_of_series_is_refused(top: int) -> None:
    """0 is 10, and 50 is the most."""
    violations = Violations()
    UsageQuery(ActivityFilter(WorkspaceId("acme")), Span.DAY, None, top).check(violations)
    with pytest.raises(InvalidRequestError, match="top"):
        violations.raise_if_any()
    assert query(Span.DAY).series == 10

"""The largest response of GetUsage fits into what clients take."""

from __future__ import annotations

from datetime import UTC, datetime

from skilder_keys.domain.activity import MAX_POINTS, MAX_SERIES, Span, Usage, UsagePoint, UsageSeries
from skilder_keys.domain.fields import MAX_FOREIGN_ID
from skilder_keys.rpc.convert_activity import usage_response

_MOST = 2**63 - 1


def test_the_largest_usage_fits_into_a_response() -> None:
    """As many series and points as there can be, with the longest ids and numbers."""
    start = datetime(9000, 1, 1, tzinfo=UTC)
    points = tuple(UsagePoint(start + index * Span.MINUTE.value, _MOST, _MOST) for index in range(MAX_POINTS))
    series = UsageSeries("\N{ROBOT FACE}" * MAX_FOREIGN_ID, points)
    assert len(usage_response(Usage((series,) * MAX_SERIES, series, start))) < 4 * 2**20

"""Sparklines and charts as text."""

from __future__ import annotations

import io

import pytest

from skilder_keys.cli.plots import chart, in_bins, sparkline


def stream(encoding: str) -> io.TextIOWrapper:
    """Return a stream with an encoding."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


UTF8, LATIN, ASCII = stream("utf-8"), stream("iso-8859-1"), stream("ascii")


@pytest.mark.parametrize(
    ("values", "drawn", "in_ascii"),
    [
        ([], "", ""),
        ([0, 0], "··", "__"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], "·▁▂▃▄▅▆▇█", "_.:-=+*#@"),
        ([1, 1_000_000], "▁█", ".@"),
        ([5], "█", "@"),
    ],
)
def test_a_number_is_as_high_as_its_share_of_the_highest(values: list[int], drawn: str, in_ascii: str) -> None:
    """Zero and the smallest number differ. A stream that cannot encode blocks gets ASCII."""
    assert sparkline(values, 40, UTF8) == drawn
    assert sparkline(values, 40, LATIN) == sparkline(values, 40, ASCII) == in_ascii


@pytest.mark.parametrize("count", [1, 23, 24, 25, 48, 100, 1500])
def test_numbers_that_do_not_fit_are_summed_up(count: int) -> None:
    """None is lost, and the last sums are of as many numbers as the others."""
    values = list(range(count))
    sums = in_bins(values, 24)
    assert len(sums) <= 24
    assert sum(sums) == sum(values)
    size = -(-count // 24)
    assert sums[-1] == sum(values[-size:])
    assert len(sparkline(values, 24, UTF8)) == len(sums)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_chart_fits_its_width(width: int, encoding: str) -> None:
    """With the highest column to the top, and in the encoding of its stream."""
    out = stream(encoding)
    lines = chart([*range(100)], [0] * 99 + [1], "2026-01-01", "2026-04-10", width, out)
    assert len(lines) == 13
    assert max(map(len, lines)) <= width
    assert "".join(lines).encode(encoding)
    columns = lines[0].rpartition("│" if encoding == "utf-8" else "|")[2]
    assert columns.strip()
    assert lines[11].split() == ["2026-01-01", "2026-04-10"]


@pytest.mark.parametrize("width", [2, 3, 5, 10, 14, 20, 30])
def test_a_chart_fits_where_there_is_hardly_room(width: int) -> None:
    """It still has its columns; the numbers beside them go first."""
    lines = chart([10**9] * 100, [1] * 100, "2026-01-01 10:00", "2026-04-10 10:00", width, UTF8)
    assert max(map(len, lines)) <= width
    assert "█" in lines[5]
    assert ("0" in lines[10]) == (width >= 30)


def test_a_chart_of_nothing_is_empty() -> None:
    """But has its axes."""
    lines = chart([0], [0], "2026-01-01", "2026-01-01", 80, UTF8)
    assert not any("█" in line for line in lines[:10])

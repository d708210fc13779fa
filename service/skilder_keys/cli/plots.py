"""Draw numbers over time as text: a sparkline in one line, and a chart of several lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = ".:-=+*#@"
_NONE, _ASCII_NONE = "·", "_"
_HEIGHT = 10
_FEWEST = 10
"""The fewest columns to draw beside numbers."""
_WIDEST = 3
"""The most characters of a column, where there are few of them."""


def can_draw(stream: TextIO) -> bool:
    """Return whether a stream's encoding has block characters; otherwise draw with ASCII."""
    try:
        (_BLOCKS + _NONE + "░│└─").encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def sparkline(values: Sequence[int], width: int, stream: TextIO) -> str:
    """Return numbers as one line of at most `width` characters, each as high as its share of the highest.

    Zero has a character of its own. If there are more numbers than characters, each character is a sum of some.
    """
    blocks = can_draw(stream)
    levels, none = (_BLOCKS, _NONE) if blocks else (_ASCII_LEVELS, _ASCII_NONE)
    sums = in_bins(values, width)
    highest = max(sums, default=0)
    return "".join(levels[(value * len(levels) - 1) // highest] if value else none for value in sums)


def in_bins(values: Sequence[int], width: int) -> list[int]:
    """Return numbers as at most `width` sums of neighbours: all of as many numbers, but for the first, the oldest."""
    size = -(-len(values) // width) if values else 1
    first = len(values) % size
    sums = [sum(values[at : at + size]) for at in range(first, len(values), size)]
    return [sum(values[:first]), *sums] if first else sums


def chart(
    granted: Sequence[int], denied: Sequence[int], first: str, last: str, width: int, stream: TextIO
) -> list[str]:
    """Return a chart of calls over time as lines: columns of granted calls, with the denied ones on top.

    Args:
        granted: The granted calls of each step; at least one step.
        denied: The denied calls of each step.
        first: The label of the first step.
        last: The label of the last step.
        width: The most columns of a line.
        stream: Where it will be written.
    """
    full, over, side, corner, floor = "█░│└─" if can_draw(stream) else "#x|+-"
    scale = len(f"{sum(granted) + sum(denied):,}")
    if width - scale - 1 < _FEWEST:
        scale = 0  # columns say more than numbers
    room = max(width - scale - 1, 1)
    good, bad = in_bins(granted, room), in_bins(denied, room)
    highest = max(map(sum, zip(good, bad, strict=True))) or 1
    wide = min(room // len(good), _WIDEST)
    lines = []
    for row in range(_HEIGHT, 0, -1):
        label = f"{highest * row // _HEIGHT:,}" if scale and row in {_HEIGHT, _HEIGHT // 2} else ""
        edge = (row - 1) * highest  # a column has a character in a row if it reaches above the row's lower edge
        cells = (
            full if value * _HEIGHT > edge else over if (value + more) * _HEIGHT > edge else " "
            for value, more in zip(good, bad, strict=True)
        )
        lines.append(f"{label:>{scale}}{side}{''.join(cell * wide for cell in cells)}".rstrip())
    columns = len(good) * wide
    margin = " " * (scale + 1)
    lines.append(f"{'0' if scale else '':>{scale}}{corner}{floor * columns}")
    dates = f"{first}{last:>{columns - len(first)}}" if columns > len(first) + len(last) else first
    labels = (dates, f"{full} granted   {over} denied")
    return lines + [(margin + label if len(margin + label) <= width else label)[:width] for label in labels]

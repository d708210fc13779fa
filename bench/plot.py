"""The plot of the results as SVG: latencies by percentile, and CPU time by call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from bench.load import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

_TITLE = "Latency by percentile, and CPU time by call"
_WIDTH = 820
_LEFT, _RIGHT = 70, 790
_TOP, _BOTTOM = 90, 310
_BARS_TOP, _BAR_STEP, _BARS_LEFT, _BARS_RIGHT = 420, 30, 270, 710
_STEPS = 45
_TICKS = tuple(digit * 10.0**power for power in range(1, 7) for digit in (1, 2, 5))  # µs

PANEL_STYLE = """\
text { font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 13px; fill: #1f2328; }
.faint { fill: #59636e; }
.title { font-size: 15px; font-weight: 600; }
.panel { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .faint { fill: #9198a1; }
  .panel { fill: #0d1117; }
}"""
"""The pictures have a background of their own, so that they are readable on any page."""

_STYLE = f"""\
{PANEL_STYLE}
.grid {{ stroke: #d1d9e0; }}
.line {{ fill: none; stroke-width: 2.5; }}
.line.a {{ stroke: #59636e; stroke-dasharray: 6 4; }} .dot.a {{ fill: #59636e; }}
.line.b {{ stroke: #0969da; }} .dot.b, .server {{ fill: #0969da; }}
.line.c {{ stroke: #bc4c00; }} .dot.c, .database {{ fill: #bc4c00; }}
@media (prefers-color-scheme: dark) {{
  .grid {{ stroke: #3d444d; }}
  .line.a {{ stroke: #9198a1; }} .dot.a {{ fill: #9198a1; }}
  .line.b {{ stroke: #4493f8; }} .dot.b, .server {{ fill: #4493f8; }}
  .line.c {{ stroke: #f0883e; }} .dot.c, .database {{ fill: #f0883e; }}
}}"""


@dataclass(frozen=True)
class Curve:
    """Latencies of calls in microseconds, sorted."""

    name: str
    latencies: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """CPU time of a call in microseconds: the server's processes, and Postgres's."""

    name: str
    server: float
    database: float


def plot(curves: Sequence[Curve], bars: Sequence[Bar], percents: Sequence[float]) -> str:
    """Return the picture: at most three curves, and any number of bars."""
    height = _BARS_TOP + _BAR_STEP * len(bars) + 20
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_TITLE}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="panel" width="{_WIDTH}" height="{height}" rx="8"/>',
        *_latencies(curves, percents),
        *_cpu(bars),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _latencies(curves: Sequence[Curve], percents: Sequence[float]) -> list[str]:
    """Return the curves. Each step to the right is ten times rarer; the vertical axis is logarithmic."""
    first, last = _rarity(percents[0]), _rarity(percents[-1])
    shown = [100 * (1 - 10 ** -(first + (last - first) * step / _STEPS)) for step in range(_STEPS + 1)]
    values = [[percentile(curve.latencies, percent) for percent in shown] for curve in curves]
    least = max(tick for tick in _TICKS if tick <= min(map(min, values)) or tick == _TICKS[0])
    greatest = min(tick for tick in _TICKS if tick >= max(map(max, values)) or tick == _TICKS[-1])

    def x(percent: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (_rarity(percent) - first) / (last - first)

    def y(latency: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * math.log(latency / least) / math.log(greatest / least)

    parts = [text(20, 30, "Latency at the same rate of calls, open loop", "title")]
    for tick in _TICKS:
        if least <= tick <= greatest:
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
            parts.append(text(_LEFT - 8, y(tick) + 4, f"{tick / 1000:g} ms", "faint", "end"))
    parts += [text(x(percent), _BOTTOM + 22, f"{percent:g} %", "faint", "middle") for percent in percents]
    for place, (curve, latencies) in enumerate(zip(curves, values, strict=True)):
        colour = "abc"[place]
        points = " ".join(f"{x(at):.1f},{y(latency):.1f}" for at, latency in zip(shown, latencies, strict=True))
        parts.append(f'<polyline class="line {colour}" points="{points}"/>')
        for percent in percents:
            down = y(percentile(curve.latencies, percent))
            parts.append(f'<circle class="dot {colour}" cx="{x(percent):.1f}" cy="{down:.1f}" r="4"/>')
        legend = _LEFT + 240 * place
        parts.append(f'<line class="line {colour}" x1="{legend}" x2="{legend + 28}" y1="58" y2="58"/>')
        parts.append(text(legend + 36, 62, curve.name))
    return parts


def _rarity(percent: float) -> float:
    """Return how rarely a percentile is exceeded, as a power of ten: 1 for 90 %, 2 for 99 %."""
    return -math.log10(1 - percent / 100)


def _cpu(bars: Sequence[Bar]) -> list[str]:
    """Return the bars."""
    longest = max(bar.server + bar.database for bar in bars)
    title = _BARS_TOP - 50
    parts = [
        text(20, title, "CPU time a call, sixteen at a time", "title"),
        f'<rect class="server" x="{_LEFT}" y="{title + 14}" width="14" height="14"/>',
        text(_LEFT + 22, title + 26, "the server's processes"),
        f'<rect class="database" x="{_LEFT + 240}" y="{title + 14}" width="14" height="14"/>',
        text(_LEFT + 262, title + 26, "Postgres"),
    ]
    for place, bar in enumerate(bars):
        top = _BARS_TOP + _BAR_STEP * place
        server, database = ((_BARS_RIGHT - _BARS_LEFT) * part / longest for part in (bar.server, bar.database))
        parts += [
            text(_BARS_LEFT - 10, top + 14, bar.name, anchor="end"),
            f'<rect class="server" x="{_BARS_LEFT}" y="{top}" width="{server:.1f}" height="18"/>',
            f'<rect class="database" x="{_BARS_LEFT + server:.1f}" y="{top}" width="{database:.1f}" height="18"/>',
            text(_BARS_LEFT + server + database + 8, top + 14, f"{bar.server + bar.database:,.0f} µs", "faint"),
        ]
    return parts


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Return a text at a position."""
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

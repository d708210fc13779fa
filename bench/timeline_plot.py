"""The picture of latency over time around a change, as SVG: of this version, and of an earlier one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plot import PANEL_STYLE, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    Step = tuple[float, float, float]

BEFORE, AFTER, STEP = 2.0, 10.0, 0.1
"""How many seconds before and after the change are shown, in steps of so many."""
EARLIER = Path(__file__).with_name("earlier.json")
"""What was measured of the last version in which a change made a process forget all keys of the workspace."""

_TITLE = "Latency around a change: one member is added while 50,000 keys of the workspace are in use"
_WIDTH, _HEIGHT = 820, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 790, 100, 350
_TICKS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)  # ms

_STYLE = f"""\
{PANEL_STYLE}
.grid {{ stroke: #d1d9e0; }}
.line {{ fill: none; stroke-width: 2; }}
.median {{ stroke-dasharray: 4 3; stroke-width: 1.5; }}
.earlier {{ stroke: #bc4c00; }}
.now {{ stroke: #0969da; }}
.change {{ stroke: #59636e; stroke-dasharray: 2 3; }}
@media (prefers-color-scheme: dark) {{
  .grid {{ stroke: #3d444d; }}
  .earlier {{ stroke: #f0883e; }}
  .now {{ stroke: #4493f8; }}
  .change {{ stroke: #9198a1; }}
}}"""


@dataclass(frozen=True)
class _Curve:
    """The steps of one version: for each the seconds since the change, the p50 and the p99 in ms."""

    name: str
    style: str
    steps: Sequence[Step]


def picture(now: Sequence[Step], now_rate: float) -> str:
    """Return the picture of this version's steps beside those of the earlier one, if they were measured."""
    curves = [_Curve(f"this version, {now_rate:,.0f} calls a second", "now", now)]
    if EARLIER.exists():
        found = json.loads(EARLIER.read_text("utf-8"))
        name = f"before, when every key was read again, {found['rate']:,.0f} a second"
        curves.append(_Curve(name, "earlier", [tuple(step) for step in found["steps"]]))
    values = [value for curve in curves for _, *percents in curve.steps for value in percents]
    least = max(tick for tick in _TICKS if tick <= min(values) or tick == _TICKS[0])
    greatest = min(tick for tick in _TICKS if tick >= max(values) or tick == _TICKS[-1])

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (seconds + BEFORE) / (BEFORE + AFTER)

    def y(latency: float) -> float:
        part = math.log(max(least, min(greatest, latency)) / least) / math.log(greatest / least)
        return _BOTTOM - (_BOTTOM - _TOP) * part

    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_TITLE}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="panel" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>',
        text(20, 30, _TITLE, "title"),
    ]
    for tick in _TICKS:
        if least <= tick <= greatest:
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
            parts.append(text(_LEFT - 8, y(tick) + 4, f"{tick:,g} ms", "faint", "end"))
    parts.append(f'<line class="change" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>')
    parts += [
        text(x(second), _BOTTOM + 22, f"{second} s", "faint", "middle")
        for second in range(-round(BEFORE), round(AFTER) + 1, 2)
    ]
    parts.append(text(_RIGHT, _BOTTOM + 42, "continuous: p99; dashed: p50", "faint", "end"))
    for place, curve in enumerate(curves):
        for style, percent in (("", 2), (" median", 1)):
            points = " ".join(f"{x(step[0]):.1f},{y(step[percent]):.1f}" for step in curve.steps)
            parts.append(f'<polyline class="line {curve.style}{style}" points="{points}"/>')
        legend = _LEFT + 320 * place
        parts.append(f'<line class="line {curve.style}" x1="{legend}" x2="{legend + 28}" y1="58" y2="58"/>')
        parts.append(text(legend + 36, 62, curve.name))
    return "\n".join([*parts, "</svg>"]) + "\n"

"""The picture of the parts of a call's time, as SVG: a bar for each server, a colour for each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.plot import PANEL_STYLE, text

if TYPE_CHECKING:
    from collections.abc import Sequence

_TITLE = "What the CPU time of one call is made of, 64 at a time"
_WIDTH = 820
_LEFT, _RIGHT = 20, 730
_LEGEND_TOP, _LEGEND_STEP, _LEGEND_COLUMN = 52, 24, 400
_BAR_STEP, _BAR_HEIGHT = 62, 30
_DIGIT = 8  # pixels
_COLOURS = ("#57606a", "#0969da", "#1b7c83", "#1a7f37", "#9a6700", "#bc4c00", "#cf222e", "#8c959f")

_STYLE = "\n".join(
    [
        PANEL_STYLE,
        ".label { fill: #ffffff; font-size: 12px; }",
        *(f".p{number} {{ fill: {colour}; }}" for number, colour in enumerate(_COLOURS)),
    ]
)


@dataclass(frozen=True)
class Stack:
    """The parts of the time of a call to one server: by name, in microseconds."""

    name: str
    parts: Sequence[tuple[str, float]]

    @property
    def whole(self) -> float:
        """The sum of all parts."""
        return sum(part for _, part in self.parts)


def picture(stacks: Sequence[Stack], parts: Sequence[str]) -> str:
    """Return the picture; a part has the same colour in every bar."""
    bars_top = _LEGEND_TOP + _LEGEND_STEP * ((len(parts) + 1) // 2) + 40
    height = bars_top + _BAR_STEP * len(stacks) - 12
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_TITLE}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="panel" width="{_WIDTH}" height="{height}" rx="8"/>',
        text(_LEFT, 30, _TITLE, "title"),
    ]
    half = (len(parts) + 1) // 2
    for number, part in enumerate(parts):
        x, y = _LEFT + _LEGEND_COLUMN * (number // half), _LEGEND_TOP + _LEGEND_STEP * (number % half)
        lines.append(f'<rect class="p{number}" x="{x}" y="{y}" width="14" height="14"/>')
        lines.append(text(x + 22, y + 12, part))
    scale = (_RIGHT - _LEFT) / max(stack.whole for stack in stacks)
    for number, stack in enumerate(stacks):
        lines += _bar(stack, parts, bars_top + _BAR_STEP * number, scale)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bar(stack: Stack, parts: Sequence[str], top: int, scale: float) -> list[str]:
    lines = [text(_LEFT, top - 6, stack.name)]
    x = float(_LEFT)
    for name, microseconds in stack.parts:
        width, colour = microseconds * scale, parts.index(name)
        lines.append(f'<rect class="p{colour}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}"/>')
        label = f"{microseconds:.0f}"
        if width > _DIGIT * (len(label) + 0.5):
            lines.append(text(x + width / 2, top + 20, label, "label", "middle"))
        x += width
    lines.append(text(x + 8, top + 20, f"{stack.whole:,.0f} µs", "faint"))
    return lines

"""A report as one page: for a terminal, as Markdown, or as HTML that needs nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from skilder.keys.v1 import key_pb2
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.plots import chart, sparkline
from skilder_keys.cli.text import Style, broken, styled, terminal_width, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from skilder_keys.cli.report.facts import Facts
    from skilder_keys.cli.report.findings import Section
    from skilder_keys.cli.usage import Points

_PIPE_WIDTH = 80
_NARROWEST = 40
_LINE = 31
_BAR_WIDTH, _BAR_HEIGHT = 20, 120


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows.

    Attributes:
        made_at: The time when it was read.
        first: The first of the 30 days.
    """

    facts: Facts
    sections: Sequence[Section]
    made_at: datetime
    first: datetime

    @property
    def title(self) -> str:
        """The heading."""
        return f"Keys of {self.facts.workspace_id}"

    @property
    def summary(self) -> list[str]:
        """Sentences with the numbers of keys and calls."""
        counts = [
            f"{each.count:,} {short_name(key_pb2.KeyType.DESCRIPTOR, each.type)} keys"
            f" {short_name(key_pb2.KeyState.DESCRIPTOR, each.state)}"
            for each in self.facts.counts
        ]
        usage = self.facts.usage
        return [
            f"Made at {self.made_at:%Y-%m-%d %H:%M} UTC.",
            f"{', '.join(counts) or 'No keys'}.",
            f"{sum(usage.granted):,} calls granted and {sum(usage.denied):,} denied in 30 days.",
        ]


def as_text(report: Report) -> Iterator[str]:
    """Yield the lines of the report for a terminal, or for a pipe in 80 columns."""
    width = max(terminal_width(sys.stdout) or _PIPE_WIDTH, _NARROWEST)

    def lines(text: str) -> list[str]:
        return broken(visible(text, sys.stdout), width, cut=True)

    def heading(text: str) -> list[str]:
        return [styled(line, Style.BOLD, sys.stdout) for line in lines(text)]

    yield from heading(report.title)
    for sentence in report.summary:
        yield from lines(sentence)
    yield ""
    usage = report.facts.usage
    yield from chart(
        usage.granted, usage.denied, f"{report.first:%Y-%m-%d}", f"{report.made_at:%Y-%m-%d}", width, sys.stdout
    )
    for key, points in report.facts.busiest[:10]:
        yield from lines(f"{key.hint} {sparkline(points.all, _LINE, sys.stdout)} {sum(points.all):,}")
    for section in report.sections:
        yield ""
        count = len(section.findings) + section.left_out
        yield from heading(f"{section.title}: {count or 'none'}")
        if not section.findings:
            continue
        yield from lines(section.about)
        for finding in section.findings:
            yield from lines(f"- {finding.subject}: {finding.why}")
            # A command stays on one line, so that it can be copied.
            yield f"    {visible(finding.command, sys.stdout)}"
        if section.left_out:
            yield f"  and {section.left_out} more"


def as_markdown(report: Report) -> Iterator[str]:
    """Yield the lines of the report as Markdown."""
    yield f"# {_plain(report.title)}"
    yield ""
    yield " ".join(map(_plain, report.summary))
    yield ""
    yield "| key | calls in 30 days | over time |"
    yield "|---|---|---|"
    for key, points in report.facts.busiest:
        line = sparkline(points.all, _LINE, sys.stdout)
        yield f"| {_plain(f'{key.hint} {key.description}')} | {sum(points.all):,} | {line} |"
    for section in report.sections:
        yield ""
        yield f"## {section.title}: {len(section.findings) + section.left_out or 'none'}"
        if not section.findings:
            continue
        yield ""
        yield section.about
        yield ""
        for finding in section.findings:
            yield f"- {_plain(finding.subject)}: {_plain(finding.why)}"
            # A fence of two backticks may have single ones inside.
            yield f"  `` {visible(finding.command, sys.stdout)} ``"
        if section.left_out:
            yield f"- and {section.left_out} more"


def _plain(text: str) -> str:
    """Return a text without what Markdown or HTML would take for markup."""
    shown = escape(visible(text, sys.stdout), quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]|#" else each for each in shown)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } td { padding: 0 1rem 0 0; vertical-align: top }
code { background: #f0f2f5; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere }
svg { width: 100%; height: auto } .granted { fill: #3b6ea8 } .denied { fill: #c2452d }
.axis { font-size: 9px; fill: #556 }
@media (prefers-color-scheme: dark) { body { background: #12161c; color: #dde3ea } code { background: #222a35 } }
"""


def as_html(report: Report) -> Iterator[str]:
    """Yield the lines of the report as one HTML document, with its style and plots in it and no script."""
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_escaped(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{_escaped(report.title)}</h1>\n<p>{_escaped(' '.join(report.summary))}</p>"
    yield from _plot(report.facts.usage, f"{report.first:%Y-%m-%d}", f"{report.made_at:%Y-%m-%d}")
    yield "<table>"
    for key, points in report.facts.busiest:
        yield f"<tr><td>{_escaped(key.hint)}</td><td>{_escaped(key.description)}</td><td>{sum(points.all):,}</td><td>"
        yield from _plot(points)
        yield "</td></tr>"
    yield "</table>"
    for section in report.sections:
        yield f"<h2>{section.title}: {len(section.findings) + section.left_out or 'none'}</h2>"
        if not section.findings:
            continue
        yield f"<p>{section.about}</p>\n<ul>"
        for finding in section.findings:
            yield f"<li>{_escaped(finding.subject)}: {_escaped(finding.why)}<br>"
            yield f"<code>{_escaped(finding.command)}</code></li>"
        if section.left_out:
            yield f"<li>and {section.left_out} more</li>"
        yield "</ul>"
    yield "</body>\n</html>"


def _plot(points: Points, first: str = "", last: str = "") -> Iterator[str]:
    """Yield columns of granted calls with the denied ones on top; small ones if they have no labels."""
    height = _BAR_HEIGHT if first else _BAR_WIDTH
    highest = max(points.all, default=0) or 1
    width = _BAR_WIDTH * len(points.all)
    label = f"{sum(points.granted):,} calls granted and {sum(points.denied):,} denied"
    yield f'<svg viewBox="0 0 {width} {height + (12 if first else 0)}" role="img" aria-label="{label}">'
    for at, (granted, denied) in enumerate(zip(points.granted, points.denied, strict=True)):
        top = float(height)
        for name, value in (("granted", granted), ("denied", denied)):
            size = value * height / highest
            top -= size
            if value:
                place = f'x="{at * _BAR_WIDTH + 2}" y="{top:.1f}" width="{_BAR_WIDTH - 4}" height="{size:.1f}"'
                yield f'<rect class="{name}" {place}><title>{granted:,} granted, {denied:,} denied</title></rect>'
    if first:
        yield f'<text class="axis" x="0" y="{height + 10}">{first}</text>'
        yield f'<text class="axis" x="{width}" y="{height + 10}" text-anchor="end">{last}</text>'
    yield "</svg>"


def _escaped(text: str) -> str:
    return escape(visible(text, sys.stdout))

"""skilder-keys top."""

from __future__ import annotations

import os
import sys
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.durations import duration, shortest
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.key_options import Actor
from skilder_keys.cli.text import terminal_width
from skilder_keys.cli.top.busiest import MAX_WORKSPACES, BusiestSource
from skilder_keys.cli.top.pages import fetch, url_of
from skilder_keys.cli.top.rates import Meter
from skilder_keys.cli.top.reading import Reader
from skilder_keys.cli.top.screen import Screen, screen
from skilder_keys.cli.top.sections import Sources
from skilder_keys.cli.top.view import View, as_text
from skilder_keys.cli.variables import variable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.cli.top.busiest import Busiest
    from skilder_keys.cli.top.rates import Rates

_DEFAULT_METRICS = "127.0.0.1:9464"
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(hours=1)
_BUSIEST_EVERY = 5.0
_LONGEST_WAIT = 1.0
"""Seconds after which the view is drawn again in any case, with its clock and the ages of its numbers."""
_QUIT, _REDRAW = b"qQ", b"\x0c"


@connected
def top(
    service: Connection,
    metrics: Annotated[
        str,
        typer.Option(
            envvar=[variable("metrics"), variable("metrics_listen")],
            help="The metrics page of a server: HOST:PORT, or its http:// or https:// address.",
            metavar="<address>",
        ),
    ] = _DEFAULT_METRICS,
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Show the busiest keys and tools of this workspace; repeat it for several"
            f" [default: all, if there are at most {MAX_WORKSPACES}].",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        timedelta, typer.Option(parser=duration, metavar="<time>", help="How often to look: 1s to 1h.")
    ] = "2s",  # type: ignore[assignment]  # Typer parses a default as it does a value
    once: Annotated[
        bool, typer.Option("--once", help="Print what happens in one interval, and end. So it is without a terminal.")
    ] = False,
    actor: Actor = "",
) -> None:
    """Watch a service: calls, denials, callers, workers, the busiest keys and tools. `q` quits.

    Calls, denials, callers and workers are those of one server, by its metrics page.
    """
    if not _SHORTEST <= interval <= _LONGEST:
        raise fail(f"--interval {shortest(interval)} is not between 1s and 1h", Exit.USAGE)
    if workspace and len(workspace) > MAX_WORKSPACES:
        raise fail(f"--workspace is given {len(workspace)} times: give it at most {MAX_WORKSPACES} times", Exit.USAGE)
    try:
        url = url_of(metrics)
    except ValueError as error:
        raise fail(f"--metrics: {error}", Exit.USAGE) from None
    seconds = interval.total_seconds()
    view = View(service.server, url, sys.stdout)
    with closing(BusiestSource(service, workspace or (), actor)) as busiest, _wake_ups() as (woken, wake):
        changed = partial(_wake, wake)
        meter = Meter()
        of_metrics = Reader(lambda: meter.add(fetch(url)), seconds, changed)
        of_busiest = Reader(busiest.read, max(seconds, _BUSIEST_EVERY), changed)
        if once or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            _print_once(view, of_metrics, of_busiest)
            return
        with screen(woken, wake) as terminal:
            _show(view, terminal, of_metrics, of_busiest, f"q quits, every {shortest(interval)}")
        of_metrics.stop()
        of_busiest.stop()


def _show(view: View, terminal: Screen, metrics: Reader[Rates], busiest: Reader[Busiest], footer: str) -> None:
    """Show the view until somebody quits."""
    metrics.start()
    busiest.start()
    again, keys = True, b""
    while not any(key in _QUIT for key in keys):
        width, height = terminal.size()
        lines = view.screen(Sources(metrics.latest, busiest.latest), width, height, footer)
        terminal.show([as_text(line, sys.stdout, exact=True) for line in lines], again=again)
        keys, again = terminal.wait(_LONGEST_WAIT)
        again = again or any(key in _REDRAW for key in keys)


def _print_once(view: View, metrics: Reader[Rates], busiest: Reader[Busiest]) -> None:
    """Print what happens in one interval. Exit with 6 if a part of it could not be read."""
    metrics.attempt()
    busiest.attempt()
    if not metrics.latest.problem:
        metrics.pause()
        metrics.attempt()
    sources = Sources(metrics.latest, busiest.latest)
    width = terminal_width(sys.stdout)
    if width is None:
        for text in view.table(sources):
            output.print_line(text)
    else:
        for line in view.page(sources, width):
            output.print_line(as_text(line, sys.stdout))
    if sources.metrics.problem or sources.busiest.problem:
        raise typer.Exit(Exit.UNAVAILABLE)


@contextmanager
def _wake_ups() -> Iterator[tuple[int, int]]:
    """Yield a pipe whose ends do not block."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _wake(wake: int) -> None:
    with suppress(OSError):  # it is full, or closed since the view has ended
        os.write(wake, b"\0")

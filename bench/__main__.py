"""Measure what the service promises, print it, and write build/bench.json, docs/performance.md and its pictures."""

from __future__ import annotations

import argparse
import time
import traceback
from copy import deepcopy
from typing import TYPE_CHECKING

from bench import (
    activity,
    audit,
    authorize,
    batch,
    changes,
    cold,
    lists,
    migration,
    parts,
    revoke,
    size,
    stock,
    tools,
    transport,
    usage,
)
from bench.environment import environment_of
from bench.h2load import H2LoadMissingError, require_h2load
from bench.report import Report
from bench.rounds import Effort
from tests.docs.pages import CAPACITY
from tests.support.stock import MISSING, binaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.environment import Environment

_CASES: dict[str, Callable[[Environment, Report], None]] = {
    "authorize": authorize.run,
    "transport": transport.run,
    "parts": parts.run,
    "batch": batch.run,
    "cold": cold.run,
    "revoke": revoke.run,
    "size": size.run,
    "tools": tools.run,
    "stock": stock.run,
    "changes": changes.run,
    "lists": lists.run,
    "activity": activity.run,
    "usage": usage.run,
    "audit": audit.run,
}
_BY_H2LOAD = {"transport", "parts", "batch", "size"}
_ON_STOCK = {"stock", "changes"}
_BESIDE_NAIVE = {"transport", "batch", "cold", "revoke", "size", "tools", "stock", "changes"}
_OF_PAGES = set(_CASES) - {"changes", "lists", "activity", "usage", "audit"}
"""The cases whose results stand in the tables of one run; the tables of the others are written by themselves."""


def main() -> None:
    """Run the cases, one after another, on one Postgres."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"what to measure: {', '.join(_CASES)}; or all")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="how often each is measured")
    parser.add_argument("--scale", type=float, default=Effort.scale, help="the part of the calls and keys to use")
    parser.add_argument("--tries", type=int, default=1, help="how often a case is tried that fails")
    parser.add_argument(
        "--earlier",
        metavar="COMMAND",
        help="the command of an earlier version: measure changes with it for the picture, or `migration` from it",
    )
    options = parser.parse_args()
    cases = options.cases or list(_CASES)
    from_earlier = migration if cases == ["migration"] else changes
    wrong = _unknown(options) or _missing(cases)
    if wrong:
        parser.error(wrong)
    effort = Effort(options.rounds, options.scale)
    if options.earlier:
        with environment_of(effort, [options.earlier]) as environment:
            from_earlier.earlier(environment)
        return
    report = Report()
    began = time.monotonic()
    try:
        with environment_of(effort) as environment:
            for name in cases:
                case_began = time.monotonic()
                report = _run(name, environment, report, options.tries)
                print(f"{name} took {time.monotonic() - case_began:.0f} s", flush=True)  # noqa: T201 - progress
    finally:
        # Results from before a failure are worth keeping.
        report.write_results()
    if report.changes.values:
        print(report.changes.text())  # noqa: T201 - the result of a command for people
    print(f"took {time.monotonic() - began:.0f} s")  # noqa: T201 - the progress of a command for people
    # A partial run, or one with fewer calls, must not replace the results of a full run.
    if effort.whole:
        report.write_picture()
        report.write_changes()
    if _OF_PAGES.issubset(cases) and effort.whole:
        report.write_pages(effort.rounds)
    if effort.whole:
        CAPACITY.path.write_text(CAPACITY.generated(), "utf-8")


def _run(name: str, environment: Environment, report: Report, tries: int) -> Report:
    """Run a case and return the report with its results; what a failed try has added is dropped."""
    before = deepcopy(report)
    try:
        _CASES[name](environment, report)
    except Exception:
        if tries <= 1:
            raise
        traceback.print_exc()
        return _run(name, environment, before, tries - 1)
    return report


def _unknown(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options, or None."""
    if options.cases == ["migration"]:
        return None if options.earlier else "give the command of an earlier version by --earlier"
    unknown = set(options.cases) - set(_CASES)
    if unknown:
        return f"no such case: {', '.join(unknown)}"
    right = options.rounds >= 1 and 0 < options.scale <= 1 and options.tries >= 1
    return None if right else "rounds, scale or tries is out of range"


def _missing(cases: list[str]) -> str | None:
    """Return what has to be installed or built first, or None."""
    try:
        if _BY_H2LOAD.intersection(cases):
            require_h2load()
    except H2LoadMissingError as error:
        return str(error)
    if _ON_STOCK.intersection(cases) and binaries() is None:
        return MISSING
    return changes.missing() if _BESIDE_NAIVE.intersection(cases) else None


if __name__ == "__main__":
    main()

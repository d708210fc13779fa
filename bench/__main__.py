"""Measure what the service promises, print it, and write build/bench.json, docs/performance.md and its pictures."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from bench import authorize, batch, cold, parts, revoke, size, stock, tools, transport
from bench.environment import environment_of
from bench.h2load import H2LoadMissingError, require_h2load
from bench.report import Report
from bench.rounds import Effort
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
}
_BY_H2LOAD = {"transport", "parts"}


def main() -> None:
    """Run the cases, one after another, on one Postgres."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"what to measure: {', '.join(_CASES)}; or all")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="how often each is measured")
    parser.add_argument("--scale", type=float, default=Effort.scale, help="the part of the calls and keys to use")
    options = parser.parse_args()
    unknown = set(options.cases) - set(_CASES)
    if unknown or options.rounds < 1 or not 0 < options.scale <= 1:
        parser.error(f"no such case: {', '.join(unknown)}" if unknown else "rounds or scale is out of range")
    try:
        if _BY_H2LOAD.intersection(options.cases or _CASES):
            require_h2load()
    except H2LoadMissingError as error:
        parser.error(str(error))
    if "stock" in (options.cases or _CASES) and binaries() is None:
        parser.error(MISSING)
    effort = Effort(options.rounds, options.scale)
    report = Report()
    began = time.monotonic()
    try:
        with environment_of(effort) as environment:
            for name in options.cases or _CASES:
                _CASES[name](environment, report)
    finally:
        # Results from before a failure are worth keeping.
        report.write_results()
    print(f"took {time.monotonic() - began:.0f} s")  # noqa: T201 - the progress of a command for people
    # A partial run, or one with fewer calls, must not replace the results of a full run.
    if effort.scale == Effort.scale:
        report.write_picture()
    if not options.cases and effort.scale == Effort.scale:
        report.write_pages(effort.rounds)


if __name__ == "__main__":
    main()

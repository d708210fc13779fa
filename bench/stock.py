"""First uses and first reads of keys on a stock Postgres that was never analysed, beside the embedded one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bench import seed
from bench.cold import USAGE_INTERVAL, first_uses
from bench.naive.service import NaiveService, asks
from bench.report import ratio_row
from bench.rounds import in_turn, medians, ratios
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.environment import Environment, Postgres
    from bench.load import Sample
    from bench.report import Report
    from bench.seed import MadeKey
    from bench.server import Server

_MEASURED = 4_500
_SIMPLE, _AT_ONCE = 300, 16
_MOST = 1.2


@dataclass
class _Side:
    """One of the two: a database in a Postgres, and its keys."""

    database: str
    postgres: Postgres | None
    keys: list[MadeKey] = field(default_factory=list)


def run(environment: Environment, report: Report) -> None:
    """Measure both: every key is authorized once and, after a restart of the servers, once more."""
    with environment.stock() as stock:
        sides = (_Side("never_analysed", stock), _Side("analysed", None))
        for what in ("first uses", "first reads after a restart"):
            _measure(environment, report, what, sides)


def _measure(environment: Environment, report: Report, what: str, sides: Sequence[_Side]) -> None:
    effort = environment.effort
    size = effort.some(_MEASURED // effort.rounds)
    number = size * (effort.rounds + 1)  # the first round is a warm-up
    with ExitStack() as stack:
        turns, simple = [], []
        for side in sides:
            again = bool(side.keys)
            server = stack.enter_context(
                environment.server(
                    side.database, postgres=side.postgres, again=again, SKILDER_KEYS_USAGE_INTERVAL=USAGE_INTERVAL
                )
            )
            if not again:
                with server.caller() as caller:
                    caller.apply(example_workspace())
                side.keys = seed.add_keys(server.sql, "acme", number, analyse=side.postgres is None)
            turns.append(partial(_next, environment, server, _parts(side.keys, size)))
            application = stack.enter_context(
                NaiveService.running(
                    environment, server, [key.token for key in side.keys], analyse=side.postgres is None
                )
            )
            asked = [asks(key.token) for key in side.keys[: effort.some(_SIMPLE)]]
            simple.append(partial(application.each_once, environment, asked, _AT_ONCE))
            if side.postgres is not None:
                stack.callback(_require_no_statistics, server)
        _report(report, what, in_turn(effort.rounds, *turns, *simple))


def _parts(keys: Sequence[MadeKey], size: int) -> Iterator[Sequence[MadeKey]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _next(environment: Environment, server: Server, parts: Iterator[Sequence[MadeKey]]) -> Sample:
    return first_uses(environment, server, next(parts))


def _require_no_statistics(server: Server) -> None:
    if server.sql.value("SELECT count(*) FROM pg_statistic WHERE starelid = 'key'::regclass"):
        raise RuntimeError("the stock Postgres has analysed its tables")


def _report(report: Report, what: str, rounds: Sequence[tuple[Sample, ...]]) -> None:
    stock, embedded, *_ = (1e6 / cpu for cpu in medians(rounds, attrgetter("cpu")))
    name = f"CPU of {what} on a stock Postgres, never analysed, to the embedded one"
    results = {"stock_per_second_and_core": stock, "embedded_per_second_and_core": embedded}
    report.add(ratio_row(name, ratios(rounds, attrgetter("cpu")), _MOST, results))
    report.compare(name, "ratio", ratios([each[2:] for each in rounds], attrgetter("cpu")).median)
    report.note(
        f"On the stock Postgres, one core does {stock:,.0f} {what} a second; on the embedded one {embedded:,.0f}."
    )

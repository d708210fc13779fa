"""What a change and a restart cost while very many keys are in use, beside an application that remembers nothing."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench import seed
from bench.around import RECOVERY, around, every_second, one_by_one, statements, steps
from bench.catalog import KINDS, LARGE_USERS, Catalog, large_workspace, reached_tool
from bench.held import after_changes
from bench.keys_in_use import WORKERS, KeysInUse, asks
from bench.load import percentile
from bench.machine import machine
from bench.naive import service as naive
from bench.openloop import BUSY, MISSING, PROGRAM, bearable
from bench.restart import restart
from bench.sides import ENVOY, GRPCIO, NAIVE
from bench.timeline_plot import AFTER, BEFORE, EARLIER, STEP
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.around import Around, LoadOf
    from bench.environment import Environment
    from bench.report import Report
    from bench.restart import Restart
    from bench.seed import MadeKey

_KEYS = 50_000
_RATE, _RESTART_RATE, _CALM_RATE, _NAIVE_RATE = 5_000, 2_000, 500, 800
_PEAK_CALLS, _PEAK_AT_ONCE = 10_000, 64
_MOST_ROUNDS = 2
_CHANGES = 60
_UPDATES = 30
_PROBES = 200
_NAIVE_RESTART_SECONDS = 12.0
_TOOL = "slack.slack_post_message"


def missing() -> str | None:
    """Return what has to be built first, in words, or None."""
    for path, words in ((PROGRAM, MISSING), (naive.PYTHON, naive.MISSING)):
        if not path.exists():
            return words
    return None


def run(environment: Environment, report: Report) -> None:
    """Measure Envoy, grpcio and the naive application, one after another, on one stock Postgres."""
    rounds = min(_MOST_ROUNDS, environment.effort.rounds)
    with environment.stock(shared_preload_libraries="pg_stat_statements") as postgres:
        catalog, large = Catalog(example_workspace()), Catalog(large_workspace())
        keys: list[MadeKey] = []
        user_keys: list[MadeKey] = []
        for transport in (ENVOY, GRPCIO):
            with KeysInUse(environment, transport, postgres, "changes", again=bool(keys)) as service:
                if not keys:
                    with service.server.caller() as caller:
                        caller.apply(catalog.workspace)
                    keys = seed.add_keys(service.server.sql, catalog.workspace.id, environment.effort.some(_KEYS))
                requests = [asks(key.token, _TOOL) for key in keys]
                rate = _many_keys(service, report, catalog, requests, rounds)
                user_keys = _team_sets(service, report, large, user_keys, requests[:_PROBES], rounds)
                rate = min(rate, _RESTART_RATE)
                found = restart(service.load(requests, rate), service.end_workers)
                _add_restart(report, transport, rate, found)
                if transport == GRPCIO:
                    _naive(service, report, (catalog, large), (keys, user_keys), rounds)


def earlier(environment: Environment) -> None:
    """Measure the command of an earlier version for the picture, and write the file that the picture is made with."""
    with (
        environment.stock() as postgres,
        KeysInUse(environment, ENVOY, postgres, "earlier") as service,
        service.server.caller() as caller,
    ):
        catalog = Catalog(example_workspace())
        caller.apply(catalog.workspace)
        keys = seed.add_keys(service.server.sql, catalog.workspace.id, environment.effort.some(_KEYS))
        requests = [asks(key.token, _TOOL) for key in keys]
        service.warm(requests)
        rate = bearable(partial(service.load, requests), _RATE)
        load = service.load(requests, rate)
        found = around(load, lambda kind: catalog.change(kind, caller), rounds=1, kinds=KINDS[:1], recovery=RECOVERY)
    content = {"machine": machine(), "rate": rate, "steps": _steps(found)}
    if environment.effort.whole:
        EARLIER.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")


def _many_keys(service: KeysInUse, report: Report, catalog: Catalog, requests: Sequence[bytes], rounds: int) -> float:
    """Measure changes of the workspace of all these keys; return the rate of calls."""
    column, table = service.transport, report.changes
    # The first transport has used these keys before the next one starts.
    service.server.sql.execute("UPDATE key SET last_used_at = NULL")
    service.server.sql.execute("VACUUM key")
    table.add("first use", column, service.warm(requests)[0].per_core_second)
    service.stop()
    service.start()
    # What is measured next is the sight of a key, without the write of its use, which follows once a minute.
    service.server.sql.execute("UPDATE key SET last_used_at = now()")
    service.server.sql.execute("VACUUM key")
    before = service.memory()
    first, second = service.warm(requests)
    table.add("key memory", column, (service.memory() - before) / (WORKERS * len(requests)))
    table.add("first sight", column, first.per_core_second)
    table.add("seen elsewhere", column, second.per_core_second)
    peak = service.environment.open_loop.once(service.asked(requests[:_PEAK_CALLS]), _PEAK_AT_ONCE)
    table.add("peak", column, peak.rate)
    rate = bearable(partial(service.load, requests), _RATE)
    load = service.load(requests, rate)
    with service.server.caller() as caller:
        # The picture shows how one transport recovers.
        recovery = RECOVERY if column == ENVOY else 0.0
        found = around(load, lambda kind: catalog.change(kind, caller), rounds=rounds, recovery=recovery)
        _add_around(report, column, rate, found)
        # A process that has too much to do may lose its lease, and then reads keys.
        calm = service.load(requests, min(rate, _CALM_RATE))
        table.add("statements", column, max(statements(service, catalog, calm).values()))
        seconds = service.environment.effort.some(_CHANGES)
        lasting = every_second(load, lambda kind: catalog.change(kind, caller), seconds)
    table.add("every second", column, lasting.slower(seconds))
    table.add("refused", column, found.refused + lasting.refused)
    if found.refused or lasting.refused:
        report.note(f"Calls by {column}: {found.outcomes()} around single changes, {lasting.outcomes()} in the minute.")
    if column == ENVOY:
        report.timeline = _steps(found)
    return rate


def _add_around(report: Report, column: str, rate: float, found: Around) -> None:
    table = report.changes
    table.add("rate", column, rate)
    table.add("cpu", column, found.timeline.cpu * 1e6 / len(found.timeline.calls))
    table.add("p50", column, found.before(50))
    table.add("p99", column, found.before(99))
    for kind in KINDS:
        table.add(kind, column, median(found.ratios(kind)))
    table.add("longest", column, found.after(100))


def _team_sets(
    service: KeysInUse,
    report: Report,
    large: Catalog,
    keys: list[MadeKey],
    probes: Sequence[bytes],
    rounds: int,
) -> list[MadeKey]:
    """Measure user keys of very different reach in a large workspace; return the keys."""
    column, table = service.transport, report.changes
    with service.server.caller() as caller:
        if not keys:
            caller.apply(large.workspace)
            users = [f"user-{user}" for user in range(LARGE_USERS)]
            keys = seed.add_user_keys(service.server.sql, large.workspace.id, users)
        requests = [asks(key.token, reached_tool(user)) for user, key in enumerate(keys)]
        before = service.memory()
        service.warm(requests[:WORKERS])
        table.add("snapshot memory", column, (service.memory() - before) / WORKERS / 2**20)
        service.warm(requests)
        rate = bearable(partial(service.load, requests, probes=probes), _RATE)
        found = around(service.load(requests, rate, probes), lambda kind: large.change(kind, caller), rounds=rounds)
        _add_team_sets(report, column, rate, found)
        asked = [(key.token, reached_tool(user)) for user, key in enumerate(keys)]
        held = after_changes(service.server.url, asked, lambda kind: large.change(kind, caller), rounds)
        table.add("held", column, asyncio.run(held) * 1000)
        took = one_by_one(lambda kind: large.change(kind, caller), _UPDATES)
        table.add("update", column, percentile(took, 50))
    return keys


def _add_team_sets(report: Report, column: str, rate: float, found: Around) -> None:
    table = report.changes
    table.add("team sets rate", column, rate)
    table.add("team sets", column, found.after(99))
    table.add("team sets refused", column, found.refused)
    if found.refused:
        report.note(f"Calls by {column} about user keys: {found.outcomes()}.")
    table.add("others before", column, found.probes_before())
    table.add("others after", column, found.probes_after())


def _add_restart(report: Report, column: str, rate: float, found: Restart) -> None:
    table = report.changes
    table.add("restart rate", column, rate)
    table.add("restart", column, found.seconds)
    table.add("busy", column, found.outcomes[BUSY])
    table.add("others", column, found.others)
    table.add("cut off", column, found.cut_off)
    report.note(f"After all workers restarted, calls by {column}: {dict(found.outcomes)}.")


def _naive(
    service: KeysInUse,
    report: Report,
    catalogs: tuple[Catalog, Catalog],
    keys: tuple[Sequence[MadeKey], Sequence[MadeKey]],
    rounds: int,
) -> None:
    """Measure the application that asks the database each time, while the service is idle and makes the changes."""
    environment, table = service.environment, report.changes
    requests, user_requests = (
        [naive.asks(key.token, _TOOL) for key in keys[0]],
        [naive.asks(key.token, reached_tool(user)) for user, key in enumerate(keys[1])],
    )
    tokens = [key.token for each in keys for key in each]
    with (
        service.server.caller() as caller,
        naive.NaiveService.running(environment, service.server, tokens, WORKERS) as application,
    ):

        def load(rate: float, asked: Sequence[bytes] = requests, probes: Sequence[bytes] = ()) -> LoadOf:
            return lambda seconds: environment.open_loop.running(application.asked(asked, probes), rate, seconds)

        peak = environment.open_loop.once(application.asked(requests[:_PEAK_CALLS]), _PEAK_AT_ONCE)
        table.add("peak", NAIVE, peak.rate)
        for first in ("first use", "first sight"):
            table.add(first, NAIVE, len(peak.calls) / peak.cpu)
        rate = bearable(load, _NAIVE_RATE)
        found = around(load(rate), lambda kind: catalogs[0].change(kind, caller), rounds=rounds)
        _add_around(report, NAIVE, rate, found)
        table.add("refused", NAIVE, found.refused)
        restarted = restart(load(rate), application.end_workers, _NAIVE_RESTART_SECONDS)
        _add_restart(report, NAIVE, rate, restarted)
        team_sets = partial(load, asked=user_requests, probes=requests[:_PROBES])
        rate = bearable(team_sets, _NAIVE_RATE)
        found = around(team_sets(rate), lambda kind: catalogs[1].change(kind, caller), rounds=rounds)
        _add_team_sets(report, NAIVE, rate, found)


def _steps(found: Around) -> list[tuple[float, float, float]]:
    return steps(found, STEP, BEFORE, AFTER)

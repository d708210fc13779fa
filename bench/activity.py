"""Activity: what Postgres pays for counting 20,000 calls a second, and for the worst mixes; and that nothing is lost.

The counts are made as a worker makes them, without calls: what a call costs is measured in the other cases.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.activity_load import KEYS, MIXES, Mix, Result, revoke_beside
from bench.activity_load import run as run_counting
from bench.cpu import cpu_seconds
from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN
from bench.server import Sql
from tests.docs.pages import replace_part
from tests.support.rows import NO_HASH
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from bench.environment import Environment, Postgres
    from bench.report import Report

PAGE = ROOT / "docs" / "design" / "activity.md"
MARKS = "activity"
"""The name of the part of the page that is written here."""

_BESIDE_SECONDS = 30.0
_REVOKED = 450
"""How many keys are revoked in that time, with counting and without: together most of the keys of the first mix."""

_FILL = """
INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'workspace', $2, 'Bot', $3, false, 'caller', 'b'
FROM generate_series(0::bigint, $1::bigint - 1) AS n
"""
_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relname LIKE $1
"""


def run(environment: Environment, report: Report) -> None:
    """Measure each mix on a database of its own, in a stock Postgres with autovacuum and fsync."""
    del report  # the table stands on a page of its own
    lines: list[str] = []
    with environment.stock(autovacuum="on") as postgres:
        for mix in MIXES:
            lines.append(measured(environment, postgres, mix))
            print(lines[-1], flush=True)  # noqa: T201 - progress
    text = table(lines)
    print(text)  # noqa: T201 - the result of a command for people
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, text), "utf-8")


def table(lines: list[str]) -> str:
    """Return the table with the rows of the mixes."""
    head = (
        "calls | a second | Postgres, ms of CPU for 1,000 calls | of these, flush and fold | WAL bytes a call | facts"
        " | bytes a fact | journal at the end | behind, at most | loop held, at most, of CPU"
        " | RevokeKey, p50 and p99 | without counting | counted"
    )
    return "\n".join([machine(), "", f"| {head} |", "|---" * (head.count("|") + 1) + "|", *lines])


def measured(environment: Environment, postgres: Postgres, mix: Mix) -> str:
    """Return the row of a mix."""
    scale = environment.effort.scale
    seconds = mix.seconds * scale
    # The server ends before the calls: what it does at rest is not the price of counting.
    with environment.server("activity", postgres=postgres) as server:
        url = server.url
        with server.caller() as caller:
            workspace = example_workspace()
            workspace.id = MAIN
            caller.apply(workspace)
    with Sql(url) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute(_FILL, KEYS, MAIN, NO_HASH)
        sql.execute("RESET session_replication_role")
        sql.execute("VACUUM (ANALYZE) key")
        result = Result()
        sql.execute("CHECKPOINT")
        wal, cpu = _wal(sql), cpu_seconds(postgres.process)
        asyncio.run(run_counting(url, mix, seconds, result))
        cpu, wal = cpu_seconds(postgres.process) - cpu - result.own, _wal(sql) - wal
        cells = _cells(sql, mix, seconds, result, cpu=cpu, wal=wal)
    with environment.server("activity", postgres=postgres, again=True) as server:
        count = max(10, int(_REVOKED * scale))
        for begin, counts, revokes in ((0, False, result.without), (count, True, result.revokes)):
            keys = range(begin, begin + count)
            revokes.extend(asyncio.run(revoke_beside(server, mix, _BESIDE_SECONDS * scale, keys, counts=counts)))
    cells[-1:-1] = [
        f"{_percentile(revokes, 0.5) * 1000:.1f}, {_percentile(revokes, 0.99) * 1000:.1f} ms"
        for revokes in (result.revokes, result.without)
    ]
    return f"| {' | '.join(cells)} |"


def _cells(sql: Sql, mix: Mix, seconds: float, result: Result, *, cpu: float, wal: int) -> list[str]:
    facts = _number(sql, "SELECT count(*) FROM activity_minute")
    size = _number(sql, _BYTES.replace("$1", "'activity_minute%'"))
    journal = _number(sql, _BYTES.replace("$1", "'activity_journal'"))
    counted = _number(sql, "SELECT coalesce(sum(count), 0)::bigint FROM activity_minute")
    wrong = counted + result.dropped - result.calls
    return [
        mix.name,
        f"{result.calls / seconds:,.0f}",
        f"{cpu * 1e6 / result.calls:.2f}",
        f"{sum(result.backends.values()) * 1e6 / result.calls:.2f}",
        f"{wal / result.calls:.0f}",
        f"{facts:,}",
        f"{size / max(facts, 1):.0f}",
        f"{journal / 2**20:.0f} MiB",
        f"{max(result.lags):.1f} s",
        f"{result.held * 1000:.0f} ms",
        "all" if wrong == 0 and not result.dropped else f"{wrong:+,} wrong, {result.dropped:,} dropped",
    ]


def _wal(sql: Sql) -> int:
    return _number(sql, "SELECT (pg_current_wal_lsn() - '0/0')::bigint")


def _number(sql: Sql, query: str) -> int:
    return int(sql.value(query))  # type: ignore[call-overload, no-any-return] # a number


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]

"""Reading activity at ten million facts of minutes: a user's newest, a key's month by hour, the top keys of a day."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from bench.cpu import cpu_seconds
from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN
from skilder.keys.v1 import activity_service_pb2 as pb
from tests.docs.pages import replace_part
from tests.support.rows import NO_HASH
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from bench.caller import Caller
    from bench.environment import Environment
    from bench.report import Report
    from bench.server import Server

PAGE = ROOT / "docs" / "design" / "plans.md"
MARKS = "usage"
"""The name of the part of the page that is written here."""

_FACTS = 10_000_000
_KEYS, _TOOLS = 1_000, 5
_TIMES = 15
_DAYS = 30
_PART_SECONDS = 15 * 60

# Half of the keys are user keys, five of each of a hundred users; the others are workspace keys.
_NAMES = (
    """
    INSERT INTO key (id, type, workspace_id, user_id, description, secret_hash, limited_to_hats, created_by_kind,
                     created_by_id)
    SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
           CASE WHEN n % 2 = 0 THEN 'user' ELSE 'workspace' END, $2, CASE WHEN n % 2 = 0 THEN 'u' || n / 2 % 100 END,
           'Bot ' || n, $3, false, 'caller', 'console'
    FROM generate_series(1, $1) AS n
    """,
    "INSERT INTO activity_workspace (id) VALUES ($1)",
    """
    INSERT INTO activity_key (key_id, workspace)
    SELECT key.id, number FROM key, activity_workspace WHERE activity_workspace.id = key.workspace_id ORDER BY key.id
    """,
    "INSERT INTO activity_tool (id) SELECT 'tool-' || n FROM generate_series(1, $1) AS n",
    "INSERT INTO activity_caller (name) VALUES ('gateway')",
)
# Every key uses every tool in each minute and hour; in each of the days before, too. In the order of the fold.
_FILL = """
INSERT INTO {table} (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms, source_ip)
SELECT at, 1, key, tool, 1, CASE WHEN (key + tool) % 50 = 0 THEN 6 ELSE 0 END, 1 + key % 20, 100, 59000, '192.0.2.1'
FROM generate_series($1::integer, $2::integer) AS at, generate_series(1, {keys}) AS key,
     generate_series(1, {tools}) AS tool
ORDER BY at, key, tool
"""
_MAKE = "SELECT make_activity_partition($1, at) FROM generate_series($2::integer, $3::integer, $4::integer) AS at"


def run(environment: Environment, report: Report) -> None:
    """Fill the tables, and call each method a few times."""
    del report  # the table stands on a page of its own
    facts = environment.effort.some(_FACTS)
    with environment.server("usage") as server:
        workspace = example_workspace()
        workspace.id = MAIN
        for number in range(100):
            workspace.members.add(user_id=f"u{number}", role="MEMBER_ROLE_VIEWER")
        with server.caller() as caller:
            caller.apply(workspace)
        _fill(server, facts)
        count: int = server.sql.value("SELECT count(*) FROM activity_minute")  # type: ignore[assignment] # a number
        with server.caller() as caller:
            lines = [_line(server, caller, name, request) for name, request in _requests().items()]
    heading = f"| read, of {count:,} facts of minutes | CPU time of a call | until the response, median | most |"
    table = "\n".join([machine(), "", heading, "|---|---|---|---|", *lines])
    print(table)  # noqa: T201 - the result of a command for people
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, table), "utf-8")


def _fill(server: Server, facts: int) -> None:
    """Write facts until now: minutes, and hours and days of a month. Of the present hour, a part is summed up."""
    values: tuple[tuple[object, ...], ...] = ((_KEYS, MAIN, NO_HASH), (MAIN,), (), (_TOOLS,), ())
    for statement, parameters in zip(_NAMES, values, strict=True):
        server.sql.execute(statement, *parameters)
    now = int(datetime.now(UTC).timestamp())
    minutes = facts // _KEYS // _TOOLS
    ranges = {
        "activity_minute": (now // 60 - minutes, now // 60 - 1, 1440),
        "activity_hour": (now // 3600 - _DAYS * 24, now // 3600 - 1, 24 * 7),
        "activity_day": (now // 86400 - _DAYS, now // 86400 - 1, 1),
    }
    for table, (first, last, step) in ranges.items():
        server.sql.execute(_MAKE, table, first, last + step, step)
        for begin in range(first, last + 1, 100):  # a statement must not take longer than the connection waits
            end = min(begin + 99, last)
            server.sql.execute(_FILL.format(table=table, keys=_KEYS, tools=_TOOLS), begin, end)
    server.sql.execute("INSERT INTO activity_stale VALUES (1, $1), (2, $2)", now // 3600, now // 86400)
    # A worker does it by itself, a part of the day once an hour of it is over.
    waiting = (now % 3600 >= _PART_SECONDS) + (now % 86400 >= 3600 + _PART_SECONDS)
    enough = f"SELECT count(summed_until) >= {waiting} FROM activity_stale"  # noqa: S608 - a number
    while not server.sql.value(enough):
        time.sleep(1)
    server.sql.execute("VACUUM (ANALYZE)")
    server.sql.execute("CHECKPOINT")


def _requests() -> dict[str, pb.ListActivityRequest | pb.GetUsageRequest]:
    now = datetime.now(UTC)
    yesterday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    hour, day = Duration(seconds=3_600), Duration(seconds=86_400)
    key_id = f"0198c2f4-7c3e-7000-8000-{77:012x}"

    def wanted(after: datetime, before: datetime | None = None, **fields: str) -> pb.ActivityFilter:
        made = pb.ActivityFilter(**fields)  # type: ignore[arg-type]  # ids only
        made.after.FromDatetime(after)
        if before is not None:
            made.before.FromDatetime(before)
        return made

    month, by_key = now - timedelta(days=_DAYS), pb.USAGE_GROUP_KEY
    return {
        "the newest 100 of a user": pb.ListActivityRequest(
            workspace_id=MAIN, filter=pb.ActivityFilter(user_id="u7"), page_size=100
        ),
        "the newest 100 of the workspace": pb.ListActivityRequest(workspace_id=MAIN, page_size=100),
        "the newest 100 denials of a user": pb.ListActivityRequest(
            workspace_id=MAIN, filter=pb.ActivityFilter(user_id="u7", verdict=pb.VERDICT_DENIED), page_size=100
        ),
        "30 days of a key by hour": pb.GetUsageRequest(
            workspace_id=MAIN, filter=wanted(month, key_id=key_id), step=hour
        ),
        "the top 20 keys of a whole day": pb.GetUsageRequest(
            workspace_id=MAIN,
            filter=wanted(yesterday, yesterday + timedelta(days=1)),
            step=day,
            group_by=by_key,
            top=20,
        ),
        "the top 20 keys of today, with an hour that is not over": pb.GetUsageRequest(
            workspace_id=MAIN, filter=wanted(now), step=day, group_by=by_key, top=20
        ),
    }


def _line(server: Server, caller: Caller, name: str, request: pb.ListActivityRequest | pb.GetUsageRequest) -> str:
    """Return the row of a request: CPU time of the server and of Postgres, and the time of a few calls."""
    took = []
    processes = (server.target.server, server.target.database)
    caller.activity(request)
    before = sum(map(cpu_seconds, processes))
    for _ in range(_TIMES):
        began = time.perf_counter()
        caller.activity(request)
        took.append((time.perf_counter() - began) * 1000)
    used = (sum(map(cpu_seconds, processes)) - before) * 1000 / _TIMES
    return f"| {name} | {used:.1f} ms | {median(took):.1f} ms | {max(took):.1f} ms |"

"""Lists and counts of a million keys beside a thousand, by each filter and order, and RevokeKeys of 10,000 keys."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN
from bench.server import Sql
from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.domain.token import KeyType, hint
from tests.docs.pages import replace_part
from tests.support.rows import NO_HASH
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.caller import Caller
    from bench.environment import Environment
    from bench.report import Report
    from bench.server import Server

PAGE = ROOT / "docs" / "design" / "plans.md"
MARKS = "lists"
"""The name of the part of the page that is written here."""

_MANY, _FEW = 1_000_000, 1_000
_TIMES = 5
_REVOCATIONS = 3
_LOOK_SECONDS = 0.001

# Of all keys half are of 11,000 users, of whom 10,000 are members, and a tenth of runtime instances. A fifth is
# revoked, a quarter was never used, one of a hundred expires within ten days, and each of forty labels is on as many.
# They were issued in the last 400 days, and used since then. Of 50,000 two have the same description.
_FILL = """
INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, secret_hash, limited_to_hats, created_at,
                 created_by_kind, created_by_id, last_used_at, expires_at, labels, used_on,
                 revoked_at, revoked_by_kind, revoked_by_id, revoke_reason)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 3)
        || '8' || right(md5(n::text), 15))::uuid,
       type, $2, CASE WHEN type = 'user' THEN 'u' || n % 11000 END,
       CASE WHEN type = 'runtime' THEN 'rt-' || n % 100000 END,
       (ARRAY['Slack', 'GitHub', 'Jira', 'Mail', 'Search'])[1 + n % 5] || ' bot '
       || CASE WHEN n % 50000 = 12 THEN n + 5 ELSE n END, $3, n % 10 = 1, at,
       CASE WHEN n % 1000 = 3 THEN 'user' ELSE 'caller' END, CASE WHEN n % 1000 = 3 THEN 'ada' ELSE 'console' END,
       used, CASE WHEN n % 100 = 6 THEN now() + interval '10 days' * (n % 1000 / 1000.0) END,
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('batch', 'b' || n / 2 % 40) ELSE '{}' END,
       (coalesce(used, at) AT TIME ZONE 'UTC')::date,
       CASE WHEN n % 5 = 0 THEN now() END, CASE WHEN n % 5 = 0 THEN 'user' END,
       CASE WHEN n % 5 = 0 THEN 'ada' END, CASE WHEN n % 5 = 0 THEN '' END
FROM (
    SELECT n, at, CASE WHEN n % 10 < 5 THEN 'user' WHEN n % 10 = 9 THEN 'runtime' ELSE 'workspace' END AS type,
           CASE WHEN n % 4 <> 0 THEN at + (now() - at) * (n * 7919 % 1000 / 1000.0) END AS used
    FROM (SELECT n, now() - interval '400 days' * (1 - n::float8 / $1) AS at
          FROM generate_series(1::bigint, $1::bigint) AS n) AS issued
) AS made
"""


_OF_KEYS = "FROM pg_index WHERE indrelid = 'key'::regclass AND NOT indisunique"
_INDEXES = f"SELECT array_agg(pg_get_indexdef(indexrelid)) {_OF_KEYS}"
_DROP = f"SELECT 'DROP INDEX ' || string_agg(indexrelid::regclass::text, ', ') {_OF_KEYS}"

# Few keys break the rule of descriptions, and none that of users, so that all keys have to be looked at.
_POLICY = """
UPDATE workspace SET max_lifetime = '3650 days', revoke_unused_after = '399 days', max_active_keys_per_user = 100,
                     require_hat_limit = true, unique_descriptions = true
"""


@dataclass(frozen=True)
class _Case:
    """A filter, and how it is called in the table."""

    name: str
    filter: pb.KeyFilter


def run(environment: Environment, report: Report) -> None:
    """Measure both servers in turn, each with its own database in the same Postgres; then revoke."""
    del report  # the table stands on a page of its own
    many = environment.effort.some(_MANY)
    with _filled(environment, "listed_thousand", _FEW) as few, _filled(environment, "listed_million", many) as lots:
        lines = [_line(case, lots, few) for case in _cases(lots)]
        lines += [_line(case, lots, few, order) for order in (2, 3) for case in _cases(lots)[:4]]
        for server in (lots, few):
            server.sql.execute(_POLICY)
        lines += [_line(case, lots, few) for case in _violations()]
        revocations = _revocations(lots)
    table = "\n".join(
        [
            machine(),
            "",
            f"| filter and order | match | ListKeys, {many:,} keys | {_FEW:,} | CountKeys, {many:,} | {_FEW:,} |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            revocations,
        ]
    )
    print(table)  # noqa: T201 - the result of a command for people
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, table), "utf-8")


@contextmanager
def _filled(environment: Environment, name: str, total: int) -> Iterator[Server]:
    with environment.server(name) as server:
        workspace = example_workspace()
        workspace.id = MAIN
        for number in range(10_000):
            workspace.members.add(user_id=f"u{number}", role="MEMBER_ROLE_VIEWER")
        del workspace.members[10_000:]
        with server.caller() as caller:
            caller.apply(workspace)
        # Triggers would check foreign keys row by row. The workspace exists, so this is left out. Indexes are made
        # afterwards, in a third of the time.
        indexes: list[str] = server.sql.value(_INDEXES)  # type: ignore[assignment] # texts
        dropped: str = server.sql.value(_DROP)  # type: ignore[assignment] # a text
        server.sql.execute(f"SET session_replication_role = replica; SET maintenance_work_mem = '256MB'; {dropped}")
        server.sql.execute(_FILL, total, MAIN, NO_HASH)
        for index in indexes:
            server.sql.execute(index)
        server.sql.execute("RESET session_replication_role; RESET maintenance_work_mem")
        server.sql.execute("VACUUM (ANALYZE) key")
        server.sql.execute("CHECKPOINT")
        yield server


def _cases(server: Server) -> list[_Case]:
    now = datetime.now(UTC)

    def wanted(name: str, *, unused: int = 0, issued: int = 0, expires: int = 0, **fields: Any) -> _Case:
        made = pb.KeyFilter(**fields)
        for field, days in (("unused_since", -unused), ("created_after", -issued), ("expires_before", expires)):
            if days:
                getattr(made, field).FromDatetime(now + timedelta(days=days))
        return _Case(name, made)

    key_id = server.sql.value("SELECT id FROM key WHERE type = 'workspace' ORDER BY id LIMIT 1")
    return [
        wanted("none"),
        wanted("state active", states=[key_pb2.KEY_STATE_ACTIVE]),
        wanted("type runtime", types=[key_pb2.KEY_TYPE_RUNTIME]),
        wanted("unused for 90 days", unused=90),
        wanted("unused for 399 days", unused=399),
        wanted("states expired, suspended", states=[key_pb2.KEY_STATE_EXPIRED, key_pb2.KEY_STATE_SUSPENDED]),
        wanted("state member removed", states=[key_pb2.KEY_STATE_MEMBER_REMOVED]),
        wanted("100 users", user_ids=[f"u{number}" for number in range(100)]),
        wanted("100 runtimes", runtime_ids=[f"rt-{number * 10 + 9}" for number in range(100)]),
        wanted("issued by a user", created_by={"kind": "PRINCIPAL_KIND_USER", "id": "ada"}),
        wanted("issued by a caller", created_by={"kind": "PRINCIPAL_KIND_CALLER", "id": "console"}),
        wanted("hint", hint=hint(KeyType.WORKSPACE, key_id)),  # type: ignore[arg-type] # a UUID
        wanted("a word of few", text="77"),
        wanted("a word of all", text="bot"),
        wanted("two words of many", text="slack bot"),
        wanted("a label of few", labels=["batch=b7"]),
        wanted("a label of half", labels=["batch"]),
        wanted("issued in the last week", issued=7),
        wanted("expires within a week", expires=7),
        wanted("without a limit to hats", unlimited=[key_pb2.KEY_LIMIT_HATS]),
    ]


def _violations() -> list[_Case]:
    names = {
        key_pb2.POLICY_RULE_MAX_LIFETIME: "longer than max_lifetime",
        key_pb2.POLICY_RULE_REVOKE_UNUSED_AFTER: "unused for longer than allowed",
        key_pb2.POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER: "of users with too many keys",
        key_pb2.POLICY_RULE_REQUIRE_HAT_LIMIT: "without the limit to hats that is required",
        key_pb2.POLICY_RULE_UNIQUE_DESCRIPTIONS: "with the same description",
    }
    return [_Case(f"violating: {name}", pb.KeyFilter(violating=[rule])) for rule, name in names.items()]


_ORDERS = {2: "last use", 3: "expiry"}


def _line(case: _Case, lots: Server, few: Server, order: int = 0) -> str:
    """Return the row of a filter and an order: milliseconds, the median of a few calls."""
    cells = [case.name + (f", by {_ORDERS[order]}" if order else "")]
    counted = pb.CountKeysRequest(workspace_id=MAIN, filter=case.filter)
    listed = pb.ListKeysRequest(workspace_id=MAIN, filter=case.filter, page_size=100, order_by=order)  # type: ignore[arg-type]
    with lots.caller() as of_lots, few.caller() as of_few:
        found = of_lots.count_keys(counted)
        cells.append(f"{'at least ' if found.partial else ''}{sum(each.count for each in found.counts):,}")
        both = (of_lots, of_few)
        lists = [[_milliseconds(each, listed) for each in both] for _ in range(_TIMES)]
        counts = [] if order else [[_milliseconds(each, counted) for each in both] for _ in range(_TIMES)]
    cells += [f"{median(each):.1f} ms" for each in zip(*lists, strict=True)]
    cells += [f"{median(each):.1f} ms" for each in zip(*counts, strict=True)] or ["", ""]
    return f"| {' | '.join(cells)} |"


def _milliseconds(caller: Caller, request: pb.ListKeysRequest | pb.CountKeysRequest) -> float:
    began = time.perf_counter()
    if isinstance(request, pb.ListKeysRequest):
        caller.list_keys(request)
    else:
        caller.count_keys(request)
    return (time.perf_counter() - began) * 1000


def _revocations(server: Server) -> str:
    """Return what RevokeKeys of 10,000 keys takes: the call, its longest transaction, and another change meanwhile."""
    took: list[float] = []
    locked: list[float] = []
    meanwhile: list[float] = []
    for number in range(_REVOCATIONS):
        # 12,500 keys, of which a call revokes 10,000. Those of `b0`, as of every fifth, were revoked before.
        request = pb.RevokeKeysRequest(workspace_id=MAIN, max_keys=_MANY)
        request.filter.labels.append(f"batch=b{number + 1}")
        found = server.sql.value(
            "SELECT array_agg(id::text) FROM"
            " (SELECT id FROM key WHERE revoked_at IS NULL AND labels = '{}' ORDER BY id LIMIT 300) AS others"
        )
        others: list[str] = found  # type: ignore[assignment] # a list of texts
        with _Watch(server) as watch, server.caller() as caller, server.caller() as other:
            prober = threading.Thread(target=_probe, args=(other, others, watch, meanwhile))
            prober.start()
            began = time.perf_counter()
            count = caller.revoke_keys(request).key_count
            took.append(time.perf_counter() - began)
            watch.ended.set()
            prober.join()
        locked.append(watch.longest)
    return (
        f"RevokeKeys of {count:,} keys by a label took {median(took):.1f} s ({min(took):.1f} to {max(took):.1f})."
        f" Its longest transaction, and so its longest lock of a key, took {max(locked) * 1000:,.0f} ms. A RevokeKey of"
        f" another key meanwhile took {median(meanwhile) * 1000:,.0f} ms, {max(meanwhile) * 1000:,.0f} at most."
    )


def _probe(caller: Caller, key_ids: Sequence[str], watch: _Watch, took: list[float]) -> None:
    for key_id in key_ids:
        if watch.ended.is_set():
            return
        began = time.perf_counter()
        caller.revoke(key_id)
        took.append(time.perf_counter() - began)


class _Watch:
    """Looks at the transactions of a database that write, again and again.

    Attributes:
        ended: Set it to stop.
        longest: How long the longest one took, in seconds.
    """

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self.ended = threading.Event()
        self.longest = 0.0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join()

    def _look(self) -> None:
        with Sql(self._url) as sql:
            while not self.ended.is_set():
                age = sql.value(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8"
                    " FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
                )
                self.longest = max(self.longest, float(age))  # type: ignore[arg-type] # a number
                time.sleep(_LOOK_SECONDS)

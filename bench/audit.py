"""A million events of the audit trail: how fast `audit verify` reads them, and how long a page of ListEvents takes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from statistics import median
from typing import TYPE_CHECKING
from uuid import UUID

from bench.cpu import cpu_seconds
from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN
from skilder.keys.v1 import audit_service_pb2 as pb
from skilder.keys.v1 import common_pb2
from skilder_keys.domain.audit_chain import GENESIS, ChainedEvent, content_of, next_hash
from tests.docs.pages import replace_part
from tests.support.process import run_command
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.caller import Caller
    from bench.environment import Environment
    from bench.report import Report
    from bench.server import Server

PAGE = ROOT / "docs" / "design" / "plans.md"
MARKS = "audit"
"""The name of the part of the page that is written here."""

_EVENTS = 1_000_000
_KEYS, _USERS = 100_000, 1_000
_AT_ONCE = 20_000
_TIMES, _VERIFIED = 15, 3
_COLUMNS = ("at", "action", "workspace_id", "key_id", "caller", "actor", "peer", "details", "number", "hash", "salt")
_ACTIONS = ("key.issued", "key.updated", "key.suspended", "key.resumed", "key.revoked")


def run(environment: Environment, report: Report) -> None:
    """Fill the trail, check it, and read pages of it."""
    del report  # the table stands on a page of its own
    events = environment.effort.some(_EVENTS)
    with environment.server("audit") as server:
        workspace = example_workspace()
        workspace.id = MAIN
        with server.caller() as caller:
            caller.apply(workspace)
        began = datetime.now(UTC) - timedelta(seconds=events)
        _fill(server, events, began)
        with server.caller() as caller:
            lines = [_line(server, caller, name, request) for name, request in _requests(began, events).items()]
        took = min(_verify(environment, server) for _ in range(_VERIFIED))
    heading = f"| read, of {events:,} events of a workspace | CPU time of a call | until the response, median | most |"
    verified = f"`audit verify` of them, start included: {took:.1f} s, so {events / took:,.0f} events a second."
    table = "\n".join([machine(), "", heading, "|---|---|---|---|", *lines, "", verified])
    print(table)  # noqa: T201 - the result of a command for people
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, table), "utf-8")


def _fill(server: Server, events: int, began: datetime) -> None:
    """Write events after those that are there, one a second, with the chain that the triggers would make."""
    server.sql.execute("SET statement_timeout = 0")
    head = server.sql.value("SELECT concat(number, ' ', encode(hash, 'hex')) FROM audit_head")
    number, _, reached = str(head or f"0 {GENESIS.hex()}").partition(" ")
    rows: list[tuple[object, ...]] = []
    first, hash_ = int(number) + 1, bytes.fromhex(reached)
    for event, at in _events(first, events, began):
        hash_ = next_hash(hash_, content_of(event))
        key_id = UUID(event.key_id)
        rows.append((at, event.action, MAIN, key_id, event.caller, event.actor, event.peer, event.details,
                     event.number, hash_, event.salt))  # fmt: skip
        if len(rows) == _AT_ONCE or event.number == first + events - 1:
            server.sql.copy("audit_event", _COLUMNS, rows)
            rows.clear()
    server.sql.execute("UPDATE audit_head SET number = $1, hash = $2", first + events - 1, hash_)
    server.sql.execute("VACUUM (ANALYZE) audit_event")
    server.sql.execute("CHECKPOINT")


def _events(first: int, count: int, began: datetime) -> Iterator[tuple[ChainedEvent, datetime]]:
    for number in range(first, first + count):
        at = began + timedelta(seconds=number)
        key = number * 7919 % _KEYS
        yield (
            ChainedEvent(
                workspace_id=MAIN,
                id=0,
                number=number,
                at=f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
                action=_ACTIONS[number % len(_ACTIONS)],
                key_id=str(UUID(int=key + 1)),
                caller="console",
                actor=f"u{number % _USERS}" if number % 3 else None,
                peer="ipv4:192.0.2.1:50000",
                # As Postgres spells it.
                details=f'{{"reason": "Request {number}", "user_id": "u{key % _USERS}", "runtime_id": null}}',
                salt=sha256(str(number).encode()).digest()[:16],
                private_digest=None,
                hash=b"",
            ),
            at,
        )


def _verify(environment: Environment, server: Server) -> float:
    """Return how many seconds the command takes."""
    began = time.perf_counter()
    done = run_command(
        "audit", "verify", folder=environment.folder, command=environment.command, SKILDER_KEYS_DATABASE_URL=server.url
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - began


def _requests(began: datetime, events: int) -> dict[str, pb.ListEventsRequest]:
    def wanted(**fields: object) -> pb.ListEventsRequest:
        return pb.ListEventsRequest(workspace_id=MAIN, filter=pb.EventFilter(**fields), page_size=100)  # type: ignore[arg-type]

    middle = began + timedelta(seconds=events // 2)
    by_ada = common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_USER, id="u7")
    by_console = common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_CALLER, id="console")
    return {
        "the newest 100 of the workspace": wanted(),
        "of a user's keys": wanted(user_id="u7"),
        "of a key": wanted(key_id=str(UUID(int=78))),
        "by an actor": wanted(by=by_ada),
        "by a caller": wanted(by=by_console),
        "of a user's keys, by an actor": wanted(user_id="u7", by=by_ada),
        "of one action": wanted(actions=["AUDIT_ACTION_KEY_REVOKED"]),
        "of an action that there is not": wanted(actions=["AUDIT_ACTION_KEY_PURGED"]),
        "of a day in the middle": wanted(after=middle, before=middle + timedelta(days=1)),
        "of a user's keys, before the middle": wanted(user_id="u7", before=middle),
    }


def _line(server: Server, caller: Caller, name: str, request: pb.ListEventsRequest) -> str:
    """Return the row of a request: CPU time of the server and of Postgres, and the time of a few calls."""
    took = []
    processes = (server.target.server, server.target.database)
    request.page_token = caller.events(request).next_page_token
    before = sum(map(cpu_seconds, processes))
    for _ in range(_TIMES):
        began = time.perf_counter()
        request.page_token = caller.events(request).next_page_token
        took.append((time.perf_counter() - began) * 1000)
    used = (sum(map(cpu_seconds, processes)) - before) * 1000 / _TIMES
    return f"| {name} | {used:.1f} ms | {median(took):.1f} ms | {max(took):.1f} ms |"

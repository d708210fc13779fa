"""The migrations of a database with a million keys, while workers of an earlier version go on serving it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from unittest.mock import patch

import grpc

from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN, OTHERS, MadeKey, make_keys
from bench.server import Sql
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.domain.token import KeyType, Token
from skilder_keys.storage import migrations
from tests.docs.pages import replace_part
from tests.support.ids import new_key_id
from tests.support.process import FRESH
from tests.support.rows import NO_HASH
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.caller import Caller
    from bench.environment import Environment
    from bench.server import Server

_Element = TypeVar("_Element")

PAGE = ROOT / "docs" / "design" / "migrations.md"
MARKS = "migration"
"""The name of the part of the page that is written here."""

_KEYS = 1_000_000
_GOOD, _REVOKED = 2_000, 2_000
_PAUSE, _REVOKE_PAUSE, _AFTER = 0.002, 0.2, 0.5
"""Seconds between two calls; between two revocations, so that there are enough keys; and after a migration."""

# Half of them of users, a tenth revoked. The columns are those of every version since the first.
_FILL = """
INSERT INTO key (id, type, workspace_id, user_id, description, secret_hash, limited_to_hats, created_at,
                 created_by_kind, created_by_id, last_used_at,
                 revoked_at, revoked_by_kind, revoked_by_id, revoke_reason)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'user' ELSE 'workspace' END, ($2::text[])[1 + n % 5],
       CASE WHEN n % 2 = 0 THEN 'u' || n % 10000 END, 'Key ' || n, $3, false, now() - interval '1 second' * n,
       'caller', 'benchmark', CASE WHEN n % 4 > 0 THEN now() END,
       CASE WHEN n % 10 = 0 THEN now() END, CASE WHEN n % 10 = 0 THEN 'user' END,
       CASE WHEN n % 10 = 0 THEN 'ada' END, CASE WHEN n % 10 = 0 THEN '' END
FROM generate_series(1, $1::integer) AS n
"""


class _Call(NamedTuple):
    """A call or a statement: what it was, when it began, and how long it took, in seconds."""

    kind: str
    began: float
    took: float


@dataclass
class _Record:
    """What was called, and how it ended.

    Attributes:
        wrong: The responses that were not what they have to be, in words.
        failed: The calls without a response, by their status.
    """

    calls: list[_Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time a call, and note it if it fails."""
        began = time.monotonic()
        try:
            yield
        except grpc.RpcError as error:
            self.failed[f"{kind}: {error.code().name}"] += 1
        self.calls.append(_Call(kind, began, time.monotonic() - began))

    def longest(self, kind: str, since: float = 0.0) -> float | None:
        """Return how long the longest call took of those that ended since a time, in seconds; None without one."""
        found = (each.took for each in self.calls if each.kind == kind and each.began + each.took >= since)
        return max(found, default=None)


_READ, _WRITE = "SELECT * FROM key WHERE id = '{}'", "UPDATE key SET last_used_at = now() WHERE id = '{}'"
_KINDS = {"grant": "Authorize", "revoke": "RevokeKey", "read": "reading a key", "write": "writing a key"}


def earlier(environment: Environment) -> None:
    """Run the command of an earlier version on its own schema, and migrate that under it."""
    with (
        environment.stock() as postgres,
        environment.server("migrated", workers=2, postgres=postgres) as server,
    ):
        keys = _fill(server, environment.effort.some(_KEYS))
        good, doomed = keys[:_GOOD], keys[_GOOD:]
        record, stop = _Record(), threading.Event()
        with ThreadPoolExecutor() as threads:
            loops = [
                threads.submit(_authorize, server, good, record, stop),
                threads.submit(_authorize, server, good, record, stop),
                threads.submit(_revoke, server, doomed, record, stop),
                threads.submit(_touch, server, "read", _READ, record, stop),
                threads.submit(_touch, server, "write", _WRITE, record, stop),
            ]
            try:
                time.sleep(3 * _AFTER)
                before = {kind: record.longest(kind) for kind in _KINDS}
                began = time.monotonic()
                lines = _migrate(server, record)
                took = time.monotonic() - began
            finally:
                stop.set()
            for loop in loops:
                loop.result()
        gone: list[str] = server.sql.value(  # type: ignore[assignment] # texts
            "SELECT array_agg(id::text) FROM key WHERE description LIKE 'Known %' AND revoked_at IS NOT NULL"
        )
        with environment.server("migrated", postgres=postgres, again=True, command=FRESH) as newer:
            for each in (server, newer):
                _check(each, keys, set(gone), record)
    calls = sum(each.kind in {"grant", "revoke"} for each in record.calls)
    summary = (
        f"All of them took {took:.1f} s. Workers of the version before made {calls:,} decisions and revocations"
        f" meanwhile: {len(record.wrong)} wrong, {sum(record.failed.values())} failed. Afterwards a worker of that"
        f" version and one of this decided about {len(keys):,} tokens, {len(gone):,} of them of keys that were revoked"
        " during the migrations, and both were right about each."
    )
    table = "\n".join(
        [
            machine(),
            "",
            f"| migration | took | {' | '.join(f'longest: {name}' for name in _KINDS.values())} |",
            "|---" * (2 + len(_KINDS)) + "|",
            f"| before | | {' | '.join(_milliseconds(before[kind]) for kind in _KINDS)} |",
            *lines,
            "",
            summary,
        ]
    )
    print(table)  # noqa: T201 - the result of a command for people
    print(record.wrong[:10], dict(record.failed))  # noqa: T201
    if record.wrong:
        raise RuntimeError(f"{len(record.wrong)} wrong responses")
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, table), "utf-8")


def _fill(server: Server, total: int) -> list[MadeKey]:
    """Add keys, and return those whose tokens are known."""
    workspace = example_workspace()
    with server.caller() as caller:
        for workspace_id in (MAIN, *OTHERS):
            workspace.id = workspace_id
            caller.apply(workspace)
    made = make_keys([new_key_id() for _ in range(_GOOD + _REVOKED)])
    columns = ("id", "type", "workspace_id", "description", "secret_hash", "limited_to_hats", "created_by_kind")
    server.sql.execute("SET session_replication_role = replica")
    server.sql.copy(
        "key",
        (*columns, "created_by_id"),
        [
            (key.id, "workspace", (MAIN, *OTHERS)[number % 5], f"Known {number}", key.secret_hash, False, "caller", "b")
            for number, key in enumerate(made)
        ],
    )
    server.sql.execute(_FILL, total, [MAIN, *OTHERS], NO_HASH)
    server.sql.execute("RESET session_replication_role")
    server.sql.execute("VACUUM (ANALYZE) key")
    server.sql.execute("CHECKPOINT")
    return made


def _migrate(server: Server, record: _Record) -> list[str]:
    """Run one migration after the other; return the row of each that took long, or kept somebody waiting."""
    every, lines = migrations.migrations(), []
    done: int = server.sql.value("SELECT max(number) FROM schema_migration")  # type: ignore[assignment] # a number
    for migration in every[done:]:
        began = time.monotonic()
        with patch.object(migrations, "migrations", lambda last=migration.number: every[:last]):
            asyncio.run(migrations.migrate(server.url))
        took = time.monotonic() - began
        time.sleep(_AFTER)
        longest = [record.longest(kind, began) for kind in _KINDS]
        name = f"`{migration.number:04}_{migration.name}`"
        lines.append(f"| {name} | {took:.2f} s | {' | '.join(map(_milliseconds, longest))} |")
        print(lines[-1], flush=True)  # noqa: T201 - progress
    return lines


def _authorize(server: Server, keys: Sequence[MadeKey], record: _Record, stop: threading.Event) -> None:
    """Authorize tokens of keys that stay, one after the other, some of them with another secret."""
    with server.caller() as caller:
        for number, key in _again_and_again(keys, stop):
            forged = number % 10 == 0
            token = Token.mint(KeyType.WORKSPACE, key.id).reveal() if forged else key.token
            with record.timed("grant"):
                _expect(caller, token, "UNKNOWN" if forged else "granted", record)


def _revoke(server: Server, keys: Sequence[MadeKey], record: _Record, stop: threading.Event) -> None:
    """Authorize, revoke and authorize one key after the other."""
    with server.caller() as caller:
        for key in keys:
            if stop.is_set():
                return
            _expect(caller, key.token, "granted", record)
            with record.timed("revoke"):
                caller.revoke(str(key.id))
                _expect(caller, key.token, "REVOKED", record)
            time.sleep(_REVOKE_PAUSE)


def _touch(server: Server, kind: str, statement: str, record: _Record, stop: threading.Event) -> None:
    """Run a statement about one key after the other."""
    with Sql(server.url) as sql:
        found: list[str] = sql.value(  # type: ignore[assignment] # texts
            "SELECT array_agg(id::text) FROM (SELECT id FROM key WHERE revoked_at IS NULL LIMIT 5000) AS found"
        )
        for _, key_id in _again_and_again(found, stop):
            with record.timed(kind):
                sql.execute(statement.format(key_id))


def _again_and_again(elements: Sequence[_Element], stop: threading.Event) -> Iterator[tuple[int, _Element]]:
    """Yield random elements with their number, a short time apart, until told to stop."""
    number = 0
    while not stop.is_set():
        yield number, random.choice(elements)  # noqa: S311 - no secret
        number += 1
        time.sleep(_PAUSE)


def _expect(caller: Caller, token: str, expected: str, record: _Record) -> None:
    response = caller.authorize(pb.AuthorizeRequest(token=token))
    reason = pb.DenialReason.Name(response.denied.reason).removeprefix("DENIAL_REASON_")
    decided = "granted" if response.HasField("granted") else reason
    if decided != expected:
        record.wrong.append(f"{decided}, not {expected}")


def _check(server: Server, keys: Sequence[MadeKey], revoked: set[str], record: _Record) -> None:
    """Check what a server decides about all known tokens."""
    with server.caller() as caller:
        for key in keys:
            _expect(caller, key.token, "REVOKED" if str(key.id) in revoked else "granted", record)


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:,.0f} ms"

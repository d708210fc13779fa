"""Rows of a large workspace beside many small ones, for tests of plans."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.ids import KeyId, UserId
from skilder_keys.domain.workspace_lists import WorkspaceFilter
from skilder_keys.storage import workspace_lists
from tests.support.lengths import by_form
from tests.support.rows import NO_HASH

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection
    from tests.support.plans import Plan

LIMIT = 101
"""The most keys of a page in these tests."""

JIT_COST = 100_000
"""The default of `jit_above_cost`."""

STATISTICS = by_form(["never analysed"], ["analysed", "never analysed"])
"""What Postgres knows of the tables. The short form has the plans that it makes without having seen them."""

_ALL_TABLES = ("key", "key_hat", "workspace", "member", "team_member", "hat", "audit_event")

# Of 20,000 keys of `acme`, newest last: 200 users have 25 keys each, 400 are of runtime instances, 1,000 are revoked.
# Two of the users are no members any more. 40 have other words in their description, 100 were issued by `ada`, half
# have a label, a third was last used in one of the last 100 days, and 200 expire.
# 2,000 other workspaces have 2 keys each.
ROWS = """
SET session_replication_role = replica; -- no events
INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(1, 2000) AS n;
INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1);
RESET session_replication_role;
INSERT INTO member (workspace_id, user_id, role) SELECT 'acme', 'u' || n, 'viewer' FROM generate_series(0, 9999) AS n;
INSERT INTO team (workspace_id, id, name) SELECT 'acme', 't' || n, 'T' FROM generate_series(0, 99) AS n;
INSERT INTO team_member (workspace_id, user_id, team_id)
SELECT 'acme', 'u' || n, 't' || n % 100 FROM generate_series(0, 9999) AS n;
INSERT INTO hat (workspace_id, id, name, description, instructions, audience)
SELECT 'acme', 'h' || n, 'H', '', '', 'teams' FROM generate_series(0, 99) AS n;
SET session_replication_role = replica;
INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, secret_hash, limited_to_hats,
                 created_by_kind, created_by_id, request_caller, request_id, request_digest, labels, last_used_at,
                 expires_at,
                 revoked_at, revoked_by_kind, revoked_by_id, revoke_reason)
SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       CASE WHEN n % 4 = 0 THEN 'user' WHEN n % 50 = 1 THEN 'runtime' ELSE 'workspace' END,
       CASE WHEN n <= 20000 THEN 'acme' ELSE 'w' || (n % 2000 + 1) END,
       CASE WHEN n % 4 = 0 THEN 'u' || n / 4 % 200 END,
       CASE WHEN n % 4 <> 0 AND n % 50 = 1 THEN 'r' || n END,
       CASE WHEN n % 500 = 3 THEN 'GitHub Release-Bot' ELSE 'Slack Support Bot' END, '{hash}', n % 100 = 2,
       CASE WHEN n % 200 = 5 THEN 'user' ELSE 'caller' END, CASE WHEN n % 200 = 5 THEN 'ada' ELSE 'console' END,
       'console', 'r' || n, sha256(n::text::bytea),
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('team', 't' || n / 2 % 100) ELSE '{}' END,
       CASE WHEN n % 3 = 0 THEN now() - make_interval(days => n / 3 % 100) END,
       CASE WHEN n % 100 = 1 THEN timestamptz '2100-01-01Z' END,
       CASE WHEN n % 20 = 0 THEN now() END, CASE WHEN n % 20 = 0 THEN 'user' END,
       CASE WHEN n % 20 = 0 THEN 'ada' END, CASE WHEN n % 20 = 0 THEN '' END
FROM generate_series(1, 24000) AS n;
RESET session_replication_role;
INSERT INTO key_hat (workspace_id, key_id, hat_id)
SELECT workspace_id, id, 'h' || h FROM key, generate_series(1, 3) AS h WHERE limited_to_hats AND workspace_id = 'acme';
DELETE FROM member WHERE user_id IN ('u7', 'u8')
""".replace("{hash}", NO_HASH)


def key_id(number: int) -> KeyId:
    """Return the id of a key by its number."""
    return KeyId(UUID(f"0198c2f4-7c3e-7000-8000-{number:012x}"))


async def page_of_workspaces(sql: Connection, user: str, *, actor: str | None = None, after: str | None = None) -> None:
    """Read a page of the workspaces that a user is a member of; with an actor, of those that have both."""
    some, other = WorkspaceFilter(UserId(user)), None if actor is None else UserId(actor)
    await workspace_lists.list_page(sql, some, actor=other, after=after, limit=LIMIT)


def assert_by_index(found: list[Plan]) -> None:
    """Fail if a table that can grow is read from end to end, or if each run would compile the plan."""
    for plan in found:
        assert plan.cost < JIT_COST, plan
        for table in _ALL_TABLES:
            assert all(scan.startswith(("Index", "Bitmap Heap Scan")) for scan in plan.scans(table)), plan

"""The privileges that the role of the service needs on each table, if it does not own them.

The owner is then the role that migrates: see "Postgres: roles and tables" in docs/operations.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.storage.sessions import DatabaseFaultError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.storage.database import Connection

_READ = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_CHANGE = ("SELECT", "UPDATE")
_KEEP = ("SELECT", "INSERT", "UPDATE")
_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")

NEEDED: Mapping[str, tuple[str, ...]] = {
    "activity_caller": _ADD,
    "activity_day": _KEEP,
    "activity_hour": _KEEP,
    "activity_journal": ("SELECT", "INSERT", "DELETE"),
    "activity_key": _ADD,
    "activity_minute": _KEEP,
    "activity_stale": ("SELECT", "INSERT", "DELETE"),
    "activity_tool": _ADD,
    "activity_unproven": _KEEP,
    "activity_workspace": _ADD,
    "activity_writer": _ALL,
    "audit_event": _ADD,
    "audit_head": _READ,
    "change": ("SELECT", "DELETE"),
    "fence": _CHANGE,
    "hat": _ALL,
    "hat_skill": _ALL,
    "hat_team": _ALL,
    "key": _KEEP,
    "key_hat": ("SELECT", "INSERT", "DELETE"),
    "key_use": _KEEP,
    "member": _ALL,
    "pending_audit_event": (),  # only triggers write these two, with the privileges of their owner
    "pending_change": (),
    "reader": _ALL,
    "schema_migration": _READ,
    "signing_key": _READ,
    "skill": _ALL,
    "skill_tool": _ALL,
    "team": _ALL,
    "team_member": _ALL,
    "tool": _ALL,
    "workspace": _KEEP,
    "workspace_content": _KEEP,
}


async def require_privileges(connection: Connection, schema: str) -> None:
    """Require that the role has the privileges in `NEEDED`. Missing tables are ignored: `require_schema` reports them.

    Raises:
        DatabaseFaultError: A privilege is missing. The message names the role, the privileges and the tables.
    """
    role = await connection.fetchval("SELECT current_user")
    # Not current_schema(): without the schema it would want the one for temporary tables, which the role may not make.
    usable = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1"
    if not await connection.fetchval(usable, schema):
        raise DatabaseFaultError(
            f"there is no schema {schema}, or the role {role} may not use it: GRANT USAGE ON SCHEMA {schema} TO {role}"
        )
    needed = [(table, privilege) for table, privileges in NEEDED.items() for privilege in privileges]
    missing = await connection.fetch(
        """
        SELECT name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges
        FROM unnest($1::text[], $2::text[]) AS wanted (name, privilege)
        JOIN pg_class ON relname = name AND relnamespace = $3::regnamespace
        WHERE NOT has_table_privilege(pg_class.oid, privilege)
        GROUP BY name ORDER BY name
        """,
        [table for table, _ in needed],
        [privilege for _, privilege in needed],
        schema,
    )
    if missing:
        privileges = "; ".join(f"{row['privileges']} on {row['name']}" for row in missing)
        grants = "; ".join(f'GRANT {row["privileges"]} ON {schema}."{row["name"]}" TO {role}' for row in missing)
        raise DatabaseFaultError(f"the role {role} lacks {privileges}. As the owner of the tables: {grants}")

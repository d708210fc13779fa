"""The triggers that the fence and the audit trail depend on: each must exist and be enabled as it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.storage.sessions import DatabaseFaultError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.storage.database import Connection

_PARTS = ("member", "team", "team_member", "hat", "hat_team", "hat_skill", "skill", "skill_tool", "tool")
_REPLICATED = "replicated"
"""What the triggers are called that fire only where `session_replication_role` is `replica`."""
_BY_HAND = "by_hand"
"""What the triggers are called that fire only where it is not."""
_EVENTS = ("added", "updated", "removed", "emptied", _REPLICATED)

NEEDED: Mapping[str, tuple[str, ...]] = {
    "audit_event": ("audit_event_divert", "audit_event_refuse_change"),
    "key": (
        "key_added",
        "key_by_hand_added",
        "key_by_hand_removed",
        "key_by_hand_secret",
        "key_by_hand_updated",
        "key_change",
        "key_end_kept",
        "key_end_set",
        "key_gone",
        "key_guard",
        "key_refuse_change",
        "key_used_on",
        "key_version",
    ),
    "key_hat": (
        "key_hat_by_hand_added",
        "key_hat_by_hand_removed",
        "key_hat_by_hand_updated",
        "key_hat_change",
        "key_hat_emptied",
        "key_hat_emptied_version",
    ),
    "pending_audit_event": ("pending_audit_event_record", "pending_audit_event_record_last"),
    "pending_change": ("pending_change_record", "pending_change_record_last"),
    "workspace": (
        "workspace_added",
        "workspace_by_hand_added",
        "workspace_by_hand_updated",
        "workspace_change",
        "workspace_gone",
        "workspace_keep_version",
        "workspace_policy_version",
        "workspace_unused_rule",
        "workspace_unused_rule_since",
        "workspace_unused_rule_version",
    ),
    **{part: tuple(f"{part}_{event}" for event in _EVENTS) for part in _PARTS},
}


async def require_triggers(connection: Connection, schema: str) -> None:
    """Require the triggers in `NEEDED`: a restore or a person may have removed or disabled one.

    Raises:
        DatabaseFaultError: A trigger is missing, or does not fire where it must. The message names each of them.
    """
    needed = [(table, trigger) for table, triggers in NEEDED.items() for trigger in triggers]
    faulty = await connection.fetch(
        """
        SELECT relname, name, mode, tgname IS NOT NULL AS is_there
        FROM (SELECT relname, name, CASE WHEN name LIKE '%' || $4 THEN 'REPLICA '
                                        WHEN name LIKE '%' || $5 || '%' THEN '' ELSE 'ALWAYS ' END AS mode
              FROM unnest($1::text[], $2::text[]) AS needed (relname, name)) AS wanted
        JOIN pg_class USING (relname)
        LEFT JOIN pg_trigger ON tgrelid = pg_class.oid AND tgname = name
        WHERE relnamespace = $3::regnamespace
          AND tgenabled IS DISTINCT FROM coalesce(nullif(left(mode, 1), ''), 'O')::"char"
        ORDER BY relname, name
        """,
        [table for table, _ in needed],
        [trigger for _, trigger in needed],
        schema,
        _REPLICATED,
        _BY_HAND,
    )
    if missing := [row["name"] for row in faulty if not row["is_there"]]:
        raise DatabaseFaultError(
            f"the triggers {', '.join(missing)} are missing, so changes could pass unnoticed: restore the database with"
            " its whole schema"
        )
    if faulty:
        names = ", ".join(row["name"] for row in faulty)
        repair = "; ".join(
            f'ALTER TABLE {schema}."{row["relname"]}" ENABLE {row["mode"]}TRIGGER {row["name"]}' for row in faulty
        )
        raise DatabaseFaultError(
            f"the triggers {names} do not fire where they must, so changes could pass unnoticed."
            f" As the owner of the tables: {repair}"
        )

"""The keys that break rules of the present key policy, in SQL: tables `key` and `workspace`.

The SQL function `key_violations` says which rules one key breaks. A search goes through many keys. Here are the same
rules for it, written so that keys are compared with each other once for all, not once for each key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.storage import workspaces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.storage.database import Connection

# $1 is the workspace. No index fits these conditions: see `storage.key_search`.
_LIVE = "num_nulls({0}.revoked_at) = 1 AND ({0}.expires_at > statement_timestamp()) IS NOT false"
_POLICY = "(SELECT workspace.{} FROM workspace WHERE workspace.id = $1)"
_FAMILY = "coalesce({0}.family_id, {0}.id)"

_BREAKS = {
    PolicyRule.MAX_LIFETIME: f"""
        key.created_at + {_POLICY.format("max_lifetime")} + interval '1 millisecond'
        < coalesce(key.expires_at, 'infinity')
    """,
    PolicyRule.REVOKE_UNUSED_AFTER: f"""
        coalesce(key.last_used_at, key.created_at) + {_POLICY.format("revoke_unused_after")} < statement_timestamp()
    """,
    PolicyRule.MAX_ACTIVE_KEYS_PER_USER: "key.type = 'user' AND key.user_id IN ({users})",
    PolicyRule.REQUIRE_HAT_LIMIT: "key.type = 'workspace' AND NOT key.limited_to_hats",
    PolicyRule.UNIQUE_DESCRIPTIONS: "{described}",
}

_TOO_MANY = f"count(DISTINCT {_FAMILY.format('other')}) > {_POLICY.format('max_active_keys_per_user')}"
_USERS = f"""
    SELECT other.user_id FROM key AS other
    WHERE other.workspace_id = $1 AND other.type = 'user' AND {_LIVE.format("other")}
    GROUP BY other.user_id HAVING {_TOO_MANY}
"""  # noqa: S608 - constants
# The same of some users, each looked up by the index of users.
_SOME_USERS = f"""
    SELECT wanted.user_id FROM ({{}}) AS wanted (user_id) WHERE (
        SELECT {_TOO_MANY} FROM key AS other
        WHERE other.workspace_id = $1 AND other.user_id = wanted.user_id AND {_LIVE.format("other")}
    )
"""  # noqa: S608 - constants

# Several families with one description. Both are compared by hashes of 64 bits, which are numbers: texts would take
# three times as long. RevokeKeys looks at each key again, by itself.
_HASH = "hashtextextended(lower({0}.description), 0)"
_FAMILY_HASH = f"uuid_hash_extended({_FAMILY}, 0)"
_DESCRIBED_ALIKE = f"""
    {_HASH.format("key")} IN (
        SELECT {_HASH.format("other")} FROM key AS other
        WHERE other.workspace_id = $1 AND {_LIVE.format("other")}
        GROUP BY {_HASH.format("other")}
        HAVING min({_FAMILY_HASH.format("other")}) <> max({_FAMILY_HASH.format("other")})
    )
"""  # noqa: S608 - constants
# The same for one key, by the index of descriptions.
_DESCRIBED_LIKE_ANOTHER = f"""
    EXISTS (
        SELECT FROM key AS other
        WHERE md5(other.workspace_id || E'\\n' || lower(other.description))
              = md5(key.workspace_id || E'\\n' || lower(key.description))
          AND other.revoked_at IS NULL AND (other.expires_at > statement_timestamp()) IS NOT false
          AND {_FAMILY.format("other")} <> {_FAMILY.format("key")}
    )
"""


async def rules_in_force(connection: Connection, key_filter: KeyFilter) -> list[PolicyRule] | None:
    """Return those rules of a filter that the policy of its workspace has; None if the filter names no rules."""
    if key_filter.violating is None:
        return None
    workspace = await workspaces.find(connection, key_filter.workspace_id)
    policy = {} if workspace is None else workspace.key_policy.plain()
    return [rule for rule in key_filter.violating if rule.value in policy]


def breaks_one_of(rules: Iterable[PolicyRule], *, users: str | None, few: bool) -> str:
    """Return the condition that a key breaks one of some rules, all of which the policy has.

    Args:
        rules: The rules.
        users: A query of the users whose keys are searched; None for all users.
        few: Whether few keys are searched, so that not all descriptions need to be compared.
    """
    broken = " OR ".join(f"({_BREAKS[rule]})" for rule in rules)
    too_many = _USERS if users is None else _SOME_USERS.format(users)
    broken = broken.format(users=too_many, described=_DESCRIBED_LIKE_ANOTHER if few else _DESCRIBED_ALIKE)
    return f"coalesce({_LIVE.format('key')} AND ({broken}), false)"

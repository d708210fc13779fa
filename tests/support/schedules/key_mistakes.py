"""Mistakes in how calls answer, and in the level of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.key_loader import KeyLoader
from skilder_keys.app.authorization.key_reads import KeyReads
from skilder_keys.app.authorization.known_key import KnownKey
from skilder_keys.app.authorization.memory import Memory
from skilder_keys.app.authorization.snapshots import Snapshots
from tests.support.schedules import key_stories, part_stories
from tests.support.schedules.plant import Edit

if TYPE_CHECKING:
    from tests.support.schedules.plant import Mistake

KEY_MISTAKES: dict[str, Mistake] = {
    "the pieces need no epoch in common": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyLoader, "begin <= end", "True"),),
    ),
    "the labels of the pieces do not count": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyLoader, "begin = max(begin, piece.label)", "pass"),),
    ),
    "an open piece is good for ever": (
        key_stories.a_key_is_ahead_when_the_lease_ends,
        (Edit(KeyLoader, "piece.until if piece.until != OPEN else max(piece.label, now)", "piece.until"),),
    ),
    "a use that could not be recorded is granted": (
        key_stories.a_key_is_revoked_before_its_first_use,
        (Edit(KeyLoader, "return None  # changes may", "return access  # changes may"),),
    ),
    "the same without a lease": (
        key_stories.a_key_is_revoked_before_its_first_use,
        (Edit(KeyLoader, " and not await self._claim(key, key.claim)", " and False"),),
    ),
    "a key whose first use is not recorded is found": (
        key_stories.a_key_is_revoked_before_its_first_use,
        (Edit(Memory, " or (known.claim is not None and isinstance(reached, SharedToolSet))", ""),),
    ),
    "a change of two workspaces touches one": (
        part_stories.a_change_touches_two_workspaces,
        (
            Edit(
                Memory,
                "in _parts(change.touches).items():",
                "in list(_parts(change.touches).items())[:1]:",
            ),
        ),
    ),
    "a lost row leaves the keys": (
        key_stories.the_row_is_lost_when_a_key_arrives,
        (Edit(Memory, "self._keys.drop_all()", "pass"),),
    ),
    "a lost row leaves the workspaces": (None, (Edit(Memory, "self._snapshots.drop_all()", "pass"),)),
    "a key is found without a lease": (
        key_stories.a_change_returns_because_the_row_is_removed,
        (Edit(KeyCache, "            or not self._lease.covers(known.fresh_until)\n", ""),),
    ),
    "a key is found after a change of all keys": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyCache, "            or known.scope.until != OPEN\n", ""),),
    ),
    "a key is used after a change of all keys": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyCache, "if known is None or known.scope.until != OPEN or not", "if known is None or not"),),
    ),
    "a changed key stays open": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                KeyCache,
                "if known is not None:\n                known.close(epoch - 1)",
                "if False:\n                pass",
            ),
        ),
    ),
    "a changed key is closed at the change": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                KeyCache,
                "if known is not None:\n                known.close(epoch - 1)",
                "if known is not None:\n                known.close(epoch)",
            ),
        ),
    ),
    "a change of all keys leaves them open": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyCache, "scope.until = epoch - 1", "pass"),),
    ),
    "a change of all keys closes them at itself": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyCache, "scope.until = epoch - 1", "scope.until = epoch"),),
    ),
    "a load of a key does not note changes": (
        key_stories.a_key_changes_while_it_is_read,
        (Edit(KeyCache, "load.touches.append((epoch, workspace_id))", "pass"),),
    ),
    "a key that is dropped stays open": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                KeyCache,
                "del self._keys[id_]\n            known.close(self._lease.epoch)",
                "del self._keys[id_]",
            ),
        ),
    ),
    "a key that is evicted stays open": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(KeyCache, "former.close(self._lease.epoch)", "pass"),),
    ),
    "a lost row leaves the keys of calls open": (
        key_stories.the_row_is_lost_when_a_key_arrives,
        (Edit(KeyCache, "scope.until = VOID", "pass"),),
    ),
    "a lost row leaves the loads of keys": (
        key_stories.the_row_is_lost_when_a_key_arrives,
        (Edit(KeyCache, "self._drops += 1", "pass"),),
    ),
    "a void key is kept": (
        key_stories.the_row_is_lost_when_a_key_arrives,
        (Edit(KeyCache, "known.close(VOID)", "pass"),),
    ),
    "a key is kept as it was before a change": (
        key_stories.a_key_changes_while_it_is_read,
        (
            Edit(
                KeyCache,
                "in (None, known.workspace_id):\n                known.close(epoch - 1)",
                "in (None, known.workspace_id):\n                pass",
            ),
        ),
    ),
    "keys do not wait for memory": (
        key_stories.a_key_is_loaded_ahead_of_memory,
        (Edit(KeyCache, "ended is None or self._lease.has_reached(ended.label)", "True"),),
    ),
    "keys do not wait until memory has the change": (
        key_stories.a_key_is_loaded_ahead_of_memory,
        (Edit(KeyCache, "caught_up = await self._lease.reach(known.label)", "caught_up = True"),),
    ),
    "a key that is ahead of memory stays open": (
        key_stories.a_key_is_ahead_of_the_parts,
        (Edit(KeyCache, "known.close(known.label)", "pass"),),
    ),
    "keys that are loaded ahead do not note changes": (
        key_stories.keys_are_loaded_ahead_while_one_changes,
        (Edit(KeyCache, "for load in loads.values():\n            self._begin(load)", "pass"),),
    ),
    "keys that are loaded ahead do not wait for memory": (
        key_stories.keys_are_loaded_ahead_before_memory_has_the_change,
        (Edit(KeyCache, "bool(found) and await self._lease.reach(found[0].label)", "True"),),
    ),
    "a grant in memory outlives its key": (
        key_stories.a_key_expires_in_memory,
        (
            Edit(
                KeyCache,
                "            or not self._lease.covers(known.fresh_until)\n",
                "            or not self._lease.valid()\n",
            ),
        ),
    ),
    "a load carries a grant over the expiry": (
        key_stories.a_key_expires_while_it_is_read,
        (Edit(KeyLoader, "self._lease.covers(key.fresh_until)", "self._lease.valid()"),),
    ),
    "the time that a key has left is counted from its answer": (
        key_stories.a_key_expires_while_it_is_read,
        (Edit(KeyReads, "fresh_until(asked_at,", "fresh_until(self._lease.now(),"),),
    ),
    "the time that a key has left is not counted": (
        key_stories.a_key_expires_in_memory,
        (Edit(KeyReads, "fresh_until(asked_at,", "fresh_until(asked_at + 1000,"),),
    ),
    "a key whose user has left is said to be suspended": (
        key_stories.a_key_is_suspended_in_memory,
        (Edit(Memory, "(known, known.outcome(reached))", "(known, known.denial)"),),
    ),
    "a suspended key is granted": (
        key_stories.a_key_is_suspended_in_memory,
        (
            Edit(
                KnownKey,
                "reached if self.denial is None or isinstance(reached, DenialReason) else self.denial",
                "reached",
            ),
        ),
    ),
    "a suspended key is granted from memory": (
        key_stories.a_key_is_suspended_in_memory,
        (Edit(Memory, "if known.denial is not None:", "if known.denial is DenialReason.REVOKED:"),),
    ),
    "a load of a resumed key overtakes its revoke": (
        key_stories.a_suspended_key_is_resumed_and_revoked,
        (
            Edit(
                KeyCache,
                "if epoch > known.label and workspace_id in (None, known.workspace_id):",
                "if epoch > known.label and known.denial is not None:",
            ),
        ),
    ),
    "each change of a suspended key is taken for its resume": (
        key_stories.a_suspended_key_is_resumed_and_revoked,
        (
            Edit(
                KeyCache,
                "if known is not None:\n                known.close(epoch - 1)",
                "if known is not None and known.denial is not None:\n"
                "                known.denial = None\n"
                "                self._keys[id_] = known\n"
                "            elif known is not None:\n                known.close(epoch - 1)",
            ),
        ),
    ),
    "a closed key is kept": (None, (Edit(KeyCache, "elif known.until == OPEN:", "else:"),)),
    "overtaken loads are joined, and the begin of the call does not count": (
        part_stories.a_call_comes_when_a_load_is_overtaken,
        (
            Edit(KeyLoader, "begin, end = began, OPEN", "begin, end = 0, OPEN"),
            Edit(
                KeyCache,
                "load.touches.append((epoch, workspace_id))\n            self._leave(load)",
                "load.touches.append((epoch, workspace_id))",
            ),
            Edit(
                Snapshots,
                "load.touches.append((epoch, parts))\n            self._leave(load)",
                "load.touches.append((epoch, parts))",
            ),
        ),
    ),
}
"""By what each mistake says."""

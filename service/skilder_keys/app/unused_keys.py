"""Revoke the keys that nobody uses any more, in workspaces whose key policy says so."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.domain.durations import in_words
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.key_policy import BEHIND, PolicyRule
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import unused_keys, workspaces

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.storage.database import Connection, Database

CHUNK = 500
"""The most keys that are revoked in one transaction."""
SEARCHED = 5000
"""How many keys are looked through in one statement, which takes some milliseconds."""

_BY = Principal(PrincipalKind.POLICY, PolicyRule.REVOKE_UNUSED_AFTER.value)


class UnusedKeys:
    """Revokes unused keys from time to time. Of all processes one does so at a time.

    A key that was used within the time is never revoked. Uses are recorded late, but where there is the rule, the
    record is at most BEHIND behind: `Credential.must_be_recorded` and `KnownKey.fresh_until` see to that. So the
    recorded last use has to be longer ago by that much, and the rule must have been in force for so long. After that
    every use of such a key is recorded before it is granted, and waits for the row, so it comes before the revocation
    or after it.

    Attributes:
        revoked: The number of keys that this process has revoked.
        runs: The number of runs by their outcome: `done`, `failed`, or `elsewhere` if another process was at it.
    """

    def __init__(self, database: Database, writer: Writer, log: FilteringBoundLogger, interval: float) -> None:
        """Make the job.

        Args:
            database: The database.
            writer: The writer of the fence.
            log: The log.
            interval: About how many seconds are between two runs of this process.
        """
        self._database = database
        self._writer = writer
        self._log = log
        self._interval = interval
        self.revoked = 0
        self.runs = {"done": 0, "elsewhere": 0, "failed": 0}

    async def run(self) -> NoReturn:
        """Run again and again, until cancelled."""
        while True:
            # So that the workers of a fleet do not all come at the same time.
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            try:
                outcome = "done" if await self.revoke() else "elsewhere"
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                outcome = "failed"
                if isinstance(error, UnavailableError):
                    self._log.warning("unused keys not revoked", error=repr(error.__cause__ or error))
                else:
                    self._log.error("unused keys not revoked", exc_info=error)
            self.runs[outcome] += 1

    async def revoke(self) -> bool:
        """Revoke all keys that are unused for too long; return False if another process does so.

        Raises:
            UnavailableError: The database does not respond.
        """
        async with self._database.connection() as connection:
            with_rule = await unused_keys.workspaces_with_rule(connection, BEHIND)
        revoked = False
        try:
            for workspace_id in with_rule:
                after: KeyId | None = None
                is_last = False
                while not is_last:
                    async with self._database.transaction() as transaction:
                        unused, after = await self._search(transaction, workspace_id, after)
                    is_last = after is None
                    for at in range(0, len(unused), CHUNK):
                        count = await self._revoke_some(workspace_id, unused[at : at + CHUNK])
                        if count is None:
                            return False
                        revoked = revoked or count > 0
        finally:
            if revoked:
                await self._writer.settle()
        return True

    async def _search(
        self, transaction: Connection, workspace_id: WorkspaceId, after: KeyId | None
    ) -> tuple[list[KeyId], KeyId | None]:
        status = await workspaces.find(transaction, workspace_id)
        unused_for = None if status is None else status.key_policy.revoke_unused_after
        if unused_for is None:
            return [], None
        return await unused_keys.search(transaction, workspace_id, unused_for + BEHIND, after, SEARCHED)

    async def _revoke_some(self, workspace_id: WorkspaceId, key_ids: list[KeyId]) -> int | None:
        """Revoke some keys of a workspace, if they are unused still.

        Return how many, or None if another process is at it.
        """
        heads: list[str] = []
        async with self._database.change(heads) as transaction:
            if not await unused_keys.try_lock(transaction):
                return None
            # Whoever takes the rule away waits for this, and is sure afterwards that it is over.
            status = await workspaces.lock(transaction, workspace_id, "read")
            if status is None or status.deleted_at is not None:
                return 0
            unused_for = status.key_policy.revoke_unused_after
            if unused_for is None or not await unused_keys.has_rule(transaction, workspace_id, BEHIND):
                return 0
            revoked = await unused_keys.revoke(
                transaction,
                workspace_id,
                key_ids,
                unused_for + BEHIND,
                by=_BY,
                reason=f"Not used for more than {in_words(unused_for)}: the key policy of the workspace revokes it.",
            )
        if revoked:
            self.revoked += len(revoked)
            self._log.info("unused keys revoked", workspace=workspace_id, keys=len(revoked), audit_head=" ".join(heads))
        return len(revoked)

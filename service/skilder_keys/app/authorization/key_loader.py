"""The cold path of Authorize: find the key, verify the token, complete it with its workspace, and remember both."""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from sys import intern
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.first_sights import endless
from skilder_keys.app.authorization.key_cache import KnownKey
from skilder_keys.app.authorization.snapshot import OPEN, SharedToolSet
from skilder_keys.app.authorization.verifier import verified
from skilder_keys.app.batching import Batcher
from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.errors import ForeignWorkspaceError, UnavailableError
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage import credentials, key_uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skilder_keys.app.authorization.first_sights import FirstSights, Lane, Patience
    from skilder_keys.app.authorization.key_cache import KeyCache
    from skilder_keys.app.authorization.memory import Access
    from skilder_keys.app.authorization.snapshot import Snapshot
    from skilder_keys.app.authorization.snapshots import Snapshots
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reads import FencedReads
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.keys import Credential, Key
    from skilder_keys.storage.database import Database

_ATTEMPTS = 5
_LINGER_SECONDS = 0.001
"""So many calls share a statement and a thread that it pays, and nobody waits long for it."""
_SLICE = 50
"""How many loads are started before other calls get their turn."""
_MALFORMED = Denied(DenialReason.MALFORMED)
_UNKNOWN = Denied(DenialReason.UNKNOWN)


class KeyLoader:
    """Loads what memory lacks to decide about tokens."""

    def __init__(
        self,
        database: Database,
        reads: FencedReads,
        lease: Lease,
        keys: KeyCache,
        snapshots: Snapshots,
        fingerprint: TokenFingerprint,
        verifier: Verifier,
        usage: Usage,
        first_sights: FirstSights,
    ) -> None:
        self._database = database
        self._reads = reads
        self._lease = lease
        self._keys = keys
        self._snapshots = snapshots
        self._fingerprint = fingerprint
        self._verifier = verifier
        self._usage = usage
        self._first_sights = first_sights
        self._credentials = Batcher(self._find_credentials, linger=_LINGER_SECONDS)
        self._first_uses = Batcher(self._claim_first_uses, linger=_LINGER_SECONDS)

    async def load(
        self,
        text: str,
        workspace_id: WorkspaceId | None,
        lane: Lane | None = None,
        patience: Patience = endless,
    ) -> Access | Denied:
        """Return the key of a token and what it reaches, or why no key has this token.

        Args:
            text: The token.
            workspace_id: The only workspace whose keys the caller may authorize; None for any.
            lane: Where the call waits for the turns of its loads, if it has several.
            patience: Returns how many seconds the caller still waits.

        Raises:
            BusyError: The call would wait too long.
            ForeignWorkspaceError: The key belongs to another workspace.
            UnavailableError: The key or its workspace cannot be loaded now.
        """
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            return _MALFORMED
        digest = self._fingerprint.digest(text)

        def turn() -> Lane:
            return lane or self._first_sights.lane(token.key_id, patience)

        for attempt in range(_ATTEMPTS):
            if self._lease.valid():
                access = await self._with_lease(token, digest, workspace_id, turn, whole=attempt > 0)
            else:
                access = await self._without_lease(token, digest, workspace_id, turn)
            if access is not None:
                return access
        raise UnavailableError("The key or its workspace changed repeatedly while it was read: try again.")

    async def load_all(
        self, tokens: Mapping[int, str], workspace_id: WorkspaceId | None, patience: Patience
    ) -> dict[int, Access | Denied]:
        """Return what `load` returns for many tokens, each by its number. The errors are those of `load`."""
        lane = self._first_sights.batch(len(tokens), patience)
        tasks = []
        for count, text in enumerate(tokens.values(), 1):
            tasks.append(asyncio.create_task(self.load(text, workspace_id, lane)))
            if not count % _SLICE:
                await asyncio.sleep(0)
        loaded: dict[int, Access | Denied] = {}
        for index, result in zip(tokens, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                raise result
            loaded[index] = result
        return loaded

    async def _with_lease(
        self, token: Token, digest: bytes, workspace_id: WorkspaceId | None, turn: Callable[[], Lane], *, whole: bool
    ) -> Access | Denied | None:
        """Decide by memory and by what is loaded into it; return None to look again."""
        began = self._lease.epoch
        key = self._keys.get(token.key_id)
        if key is None:
            key = await self._keys.load(token.key_id, digest, lambda: self._read(token, digest), turn)
        if key is None or not compare_digest(key.digest, digest):
            return _UNKNOWN
        require_workspace(key.workspace_id, workspace_id)
        if key.revoked:
            return (key, DenialReason.REVOKED) if self._holds(began, key) else None
        snapshot = self._snapshots.current(key.workspace_id)
        if snapshot is None or snapshot.lacks(key.user_id):
            snapshot = await self._snapshots.load(key.workspace_id, whole=whole)
        if snapshot.lacks(key.user_id) or not self._holds(began, key, snapshot):
            return None
        access = self._access(key, snapshot)
        if key.claim is not None and isinstance(access[1], SharedToolSet):
            await self._claim(key, key.claim)
            return None  # changes may have come while the database was asked, so look again
        return access

    async def _without_lease(
        self, token: Token, digest: bytes, workspace_id: WorkspaceId | None, turn: Callable[[], Lane]
    ) -> Access | Denied | None:
        """Decide by the database alone; return None if the workspace changed between two reads."""
        async with turn():
            key = await self._read(token, digest)
        if key is None:
            return _UNKNOWN
        require_workspace(key.workspace_id, workspace_id)
        if key.revoked:
            return key, DenialReason.REVOKED
        snapshot = await self._snapshots.at(key.workspace_id, key.version, key.user_id)
        if snapshot is None:
            return None
        access = self._access(key, snapshot)
        if key.claim is not None and isinstance(access[1], SharedToolSet) and not await self._claim(key, key.claim):
            return None
        return access

    async def _read(self, token: Token, digest: bytes) -> KnownKey | None:
        """Return the key of a token from the database, with its token verified; None if no key has this token."""
        found = await self._credentials.get(token.key_id)
        if found is None:
            return None
        epoch, credential = found
        if await verified(self._verifier, token, digest, credential) is None:
            return None
        key = credential.key
        reach = key.reach
        if credential.unused_seconds is not None:
            self._usage.read(token.key_id, credential.unused_seconds)
        return KnownKey(
            token.key_id,  # not `key.id`, whose class is the driver's: it makes a new number each time it is asked
            digest,
            self._keys.scope(WorkspaceId(intern(key.workspace_id))),
            key.user_id,
            reach.hat_ids,
            reach.team_ids,
            revoked=key.revocation is not None,
            head=encoding.granted_key(key),
            runtime=_runtime(key),
            claim=credential.secret_hash if key.last_used_at is None else None,
            version=credential.workspace_version,
            label=epoch,
        )

    def _access(self, key: KnownKey, snapshot: Snapshot) -> Access:
        reached = snapshot.reached(key)
        if reached is None:
            raise LookupError("the caller makes sure that nothing is missing")
        return key, reached

    def _holds(self, began: int, *pieces: KnownKey | Snapshot) -> bool:
        """Return whether one state that is not older than `began` had all the pieces, and the lease is still valid."""
        now = self._lease.epoch
        begin = max(began, *(piece.label for piece in pieces))
        end = min(piece.until if piece.until != OPEN else max(piece.label, now) for piece in pieces)
        return begin <= end and self._lease.valid()

    async def _claim(self, key: KnownKey, secret_hash: str) -> bool:
        """Record the first use of a key; return False if the key was revoked, or has another secret now."""
        if not await self._first_uses.get((key.id, secret_hash)):
            self._keys.forget(key)  # the database is ahead of memory
            return False
        key.claim = None
        self._usage.written(key.id)
        return True

    async def _find_credentials(self, key_ids: list[KeyId]) -> dict[KeyId, tuple[int, Credential]]:
        read = await self._reads.read(lambda connection: credentials.find_credentials(connection, key_ids))
        return {key_id: (read.revision.epoch, credential) for key_id, credential in read.credentials.items()}

    async def _claim_first_uses(self, secret_hashes: list[tuple[KeyId, str]]) -> dict[tuple[KeyId, str], bool]:
        async with self._database.connection() as connection:
            return await key_uses.claim_first_uses(connection, secret_hashes)


def require_workspace(workspace_id: WorkspaceId, allowed: WorkspaceId | None) -> None:
    """Raise ForeignWorkspaceError if a key's workspace is not the allowed one; None allows any."""
    if allowed not in (None, workspace_id):
        raise ForeignWorkspaceError


def _runtime(key: Key) -> Caller | None:
    if key.runtime_id is None:
        return None
    return Caller(f"runtime:{key.runtime_id}", CallerRole.RUNTIME, key.workspace_id)

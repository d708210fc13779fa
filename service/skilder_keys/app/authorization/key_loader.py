"""The cold path of Authorize: keys that memory does not have are loaded, verified and completed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.cache import KnownKey
from skilder_keys.app.authorization.verifier import verified
from skilder_keys.app.batching import Batcher
from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.domain.denial import DenialReason, Denied, check_status
from skilder_keys.domain.errors import ForeignWorkspaceError, UnavailableError
from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage import credentials, key_uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.app.authorization.cache import KeyCache, Load
    from skilder_keys.app.authorization.tool_sets import ToolSets
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.keys import Credential, Key
    from skilder_keys.storage.database import Database

_ATTEMPTS = 5
_READS = 2
_SLICE = 50
"""How many loads are started before other calls get their turn."""
_MALFORMED = Denied(DenialReason.MALFORMED)
_UNKNOWN = Denied(DenialReason.UNKNOWN)


class KeyLoader:
    """Loads the keys of tokens from the database, verifies the tokens, and puts the keys into the cache."""

    def __init__(
        self,
        database: Database,
        lease: Lease,
        cache: KeyCache,
        tool_sets: ToolSets,
        fingerprint: TokenFingerprint,
        verifier: Verifier,
        usage: Usage,
    ) -> None:
        self._database = database
        self._lease = lease
        self._cache = cache
        self._tool_sets = tool_sets
        self._fingerprint = fingerprint
        self._verifier = verifier
        self._usage = usage
        self._credentials = Batcher(self._find_credentials)
        self._first_uses = Batcher(self._claim_first_uses)

    async def load(self, text: str, workspace_id: WorkspaceId | None) -> KnownKey | Denied:
        """Return the key of a token, or why there is none.

        Args:
            text: The token.
            workspace_id: The only workspace whose keys the caller may authorize; None for any.

        Raises:
            ForeignWorkspaceError: The key belongs to another workspace.
            UnavailableError: The key cannot be loaded now.
        """
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            return _MALFORMED
        digest = self._fingerprint.digest(text)
        if self._cache.rejects(token.key_id, digest):
            return _UNKNOWN
        known = await self._cache.load(
            (digest, workspace_id), token.key_id, lambda load: self._load(load, token, digest, workspace_id)
        )
        return _UNKNOWN if known is None else known

    async def load_all(
        self, tokens: Mapping[int, str], workspace_id: WorkspaceId | None
    ) -> dict[int, KnownKey | Denied]:
        """Return what `load` returns for many tokens, each by its number. The errors are those of `load`."""
        tasks = []
        for count, text in enumerate(tokens.values(), 1):
            tasks.append(asyncio.create_task(self.load(text, workspace_id)))
            if not count % _SLICE:
                await asyncio.sleep(0)
        loaded: dict[int, KnownKey | Denied] = {}
        for index, result in zip(tokens, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                raise result
            loaded[index] = result
        return loaded

    async def _load(self, load: Load, token: Token, digest: bytes, workspace_id: WorkspaceId | None) -> KnownKey | None:
        for _ in range(_ATTEMPTS):
            credential = await self._credentials.get(token.key_id)
            if credential is not None:
                load.workspace_id = credential.key.workspace_id
            credential = await verified(self._verifier, token, digest, credential)
            if credential is None:
                return None
            # Checked before the first use is recorded, because a rejected call does not count as a use of the key.
            require_workspace(credential.key.workspace_id, workspace_id)
            known = await self._complete(credential, digest)
            if known is not None:
                return known
        raise UnavailableError("The key or its workspace changed repeatedly while it was read: try again.")

    async def _complete(self, credential: Credential, digest: bytes) -> KnownKey | None:
        """Return the key with its tool set; None if a change between the two reads made them inconsistent."""
        key, tool_set = credential.key, self._tool_sets.nothing
        denied = check_status(credential)
        if denied is None:
            current = await self._tool_sets.get(key.workspace_id, credential.workspace_version, credential.reach)
            if current is None or not await self._note_first_use(credential):
                return None
            tool_set = current
        return KnownKey(
            key_id=key.id,
            digest=digest,
            scope=self._cache.scope(key.workspace_id),
            denied=denied,
            head=encoding.granted_key(key),
            tool_set=tool_set,
            runtime=_runtime(key),
        )

    async def _note_first_use(self, credential: Credential) -> bool:
        key = credential.key
        if key.last_used_at is not None:
            return True
        noted = bool(await self._first_uses.get((key.id, credential.secret_hash)))
        if noted:
            self._usage.written(key.id)
        return noted

    async def _find_credentials(self, key_ids: list[KeyId]) -> dict[KeyId, Credential]:
        for _ in range(_READS):
            lease = self._lease
            expected, server = lease.revision, lease.server
            async with self._database.connection() as connection:
                snapshot = await credentials.find_credentials(connection, key_ids)
            if server in ("", snapshot.server) and snapshot.revision.epoch >= expected.epoch:
                return snapshot.credentials
            # This is another server than the fence's, e.g. a former primary, or a database that was restored to an
            # older state. It is not known here which of the two is right. So everything is dropped, and both the fence
            # and this query ask again.
            leased = lease.valid()
            lease.doubt()
            self._cache.drop_all()
            accepted = not leased and snapshot.revision.epoch >= expected.epoch
            if accepted:
                # Without a lease nothing is served from memory, and no newer state is known, so this one can be used.
                lease.revision, lease.server = snapshot.revision, snapshot.server
            await self._database.expire()
            if accepted:
                return snapshot.credentials
        raise UnavailableError("The database lacks changes that another server has: try again.")

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

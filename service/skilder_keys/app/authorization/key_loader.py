"""The cold path of Authorize: find the key, verify the token, complete it with its workspace, and remember both."""

from __future__ import annotations

import asyncio
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING

from skilder_keys.app.authorization.first_sights import endless
from skilder_keys.app.authorization.key_reads import LINGER_SECONDS, KeyReads
from skilder_keys.app.authorization.lanes import Lane
from skilder_keys.app.authorization.snapshot import OPEN
from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.app.authorization.turns import Turns
from skilder_keys.app.batching import Batcher
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.token import MalformedTokenError, Token, claimed_id_text
from skilder_keys.storage import key_uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.app.authorization.first_sights import Patience
    from skilder_keys.app.authorization.key_cache import KeyCache
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.memory import Access
    from skilder_keys.app.authorization.snapshot import Snapshot
    from skilder_keys.app.authorization.snapshots import Snapshots
    from skilder_keys.app.authorization.turns import Gates
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reads import FencedReads
    from skilder_keys.domain.access import CallerLimits
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.storage.database import Database

_ATTEMPTS = 5
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
        gates: Gates,
    ) -> None:
        self._database = database
        self._lease = lease
        self._keys = keys
        self._snapshots = snapshots
        self._fingerprint = fingerprint
        self._usage = usage
        self._gates = gates
        self._reads = KeyReads(reads, lease, keys, verifier, usage)
        self._first_uses = Batcher(self._claim_first_uses, linger=LINGER_SECONDS)

    async def load(
        self,
        text: str,
        limits: CallerLimits,
        patience: Patience = endless,
        caller: str = "",
    ) -> Access | Denied:
        """Return the key of a token and what it reaches, or why no key has this token.

        Args:
            text: The token.
            limits: What the caller is limited to.
            patience: Returns how many seconds the caller still waits.
            caller: The name of the caller.

        Raises:
            BusyError: The call would wait too long.
            ForeignWorkspaceError: The key belongs to a workspace that the caller is not allowed.
            UnavailableError: The key or its workspace cannot be loaded now.
        """
        of_keys = Turns(self._gates.keys, caller, patience)
        return await self._load(text, limits, of_keys, Turns(self._gates.workspaces, caller, patience))

    async def load_stranger(self, text: str) -> Access | Denied:
        """Return what `load` returns for the token of a caller that is not known yet. The errors are the same."""
        return await self._load(text, NO_LIMITS, Turns(self._gates.strangers), Turns(self._gates.workspaces))

    async def load_all(
        self, tokens: Mapping[int, str], limits: CallerLimits, patience: Patience, caller: str
    ) -> dict[int, Access | Denied]:
        """Return what `load` returns for many tokens, each by its number. The errors are those of `load`."""
        if not tokens:
            return {}
        gate = self._gates.workspaces
        of_workspaces = Turns(gate, caller, patience, Lane(gate, caller, None))
        tasks = []
        with self._gates.keys.batch(len(tokens), caller, patience) as lane:
            of_keys = Turns(self._gates.keys, caller, patience, lane)
            try:
                async with asyncio.TaskGroup() as group:
                    for count, text in enumerate(tokens.values(), 1):
                        tasks.append(group.create_task(self._load(text, limits, of_keys, of_workspaces)))
                        if not count % _SLICE:
                            await asyncio.sleep(0)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return dict(zip(tokens, (task.result() for task in tasks), strict=True))

    async def _load(self, text: str, limits: CallerLimits, of_keys: Turns, of_workspaces: Turns) -> Access | Denied:
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            return _MALFORMED
        id_, digest = claimed_id_text(text), self._fingerprint.digest(text)
        for attempt in range(_ATTEMPTS):
            if self._lease.valid():
                access = await self._with_lease(id_, token, digest, limits, of_keys, of_workspaces, whole=attempt > 0)
            else:
                access = await self._without_lease(token, digest, limits, of_keys, of_workspaces)
            if access is not None:
                return access
        raise UnavailableError("The key or its workspace changed repeatedly while it was read: try again.")

    async def _with_lease(
        self,
        id_: str,
        token: Token,
        digest: bytes,
        limits: CallerLimits,
        of_keys: Turns,
        of_workspaces: Turns,
        *,
        whole: bool,
    ) -> Access | Denied | None:
        """Decide by memory and by what is loaded into it; return None to look again."""
        began = self._lease.epoch
        key = self._keys.get(id_)
        if key is None:
            read, next_lane = partial(self._reads.begin, token, digest), partial(of_keys.next, token.key_id)
            key = await self._keys.load(id_, digest, read, next_lane)
        if key is None or not compare_digest(key.digest, digest):
            return _UNKNOWN
        limits.require_workspace(key.workspace_id)
        if key.denial is DenialReason.REVOKED:
            return (key, DenialReason.REVOKED) if self._holds(began, key) else None
        snapshot = self._snapshots.current(key.workspace_id)
        if snapshot is None or snapshot.lacks(key.user_id):
            turn = partial(of_workspaces.next, key.workspace_id)
            snapshot = await self._snapshots.load(key.workspace_id, whole=whole, turn=turn)
        if snapshot.lacks(key.user_id) or not self._holds(began, key, snapshot):
            return None
        access = self._access(key, snapshot)
        if key.claim is not None and isinstance(access[1], SharedToolSet):
            await self._claim(key, key.claim)
            return None  # changes may have come while the database was asked, so look again
        return access

    async def _without_lease(
        self,
        token: Token,
        digest: bytes,
        limits: CallerLimits,
        of_keys: Turns,
        of_workspaces: Turns,
    ) -> Access | Denied | None:
        """Decide by the database alone; return None if the workspace changed between two reads."""
        async with of_keys.next(token.key_id):
            key = await self._reads.read(token, digest)
        if key is None:
            return _UNKNOWN
        limits.require_workspace(key.workspace_id)
        if key.denial is DenialReason.REVOKED:
            return key, DenialReason.REVOKED
        turn = partial(of_workspaces.next, key.workspace_id)
        snapshot = await self._snapshots.at(key.workspace_id, key.version, key.user_id, turn)
        if snapshot is None:
            return None
        access = self._access(key, snapshot)
        if key.claim is not None and isinstance(access[1], SharedToolSet) and not await self._claim(key, key.claim):
            return None
        return access

    async def load_ahead(self, key_ids: list[KeyId]) -> None:
        """Load keys for which nobody has asked yet: those whose token a worker has verified, and that are in use.

        Raises:
            UnavailableError: They cannot be loaded now.
        """
        if self._lease.valid():
            await self._keys.load_ahead(key_ids, self._reads.read_ahead)

    def _access(self, key: KnownKey, snapshot: Snapshot) -> Access:
        reached = snapshot.reached(key)
        if reached is None:
            raise LookupError("the caller makes sure that nothing is missing")
        return key, key.outcome(reached)

    def _holds(self, began: int, key: KnownKey, *others: Snapshot) -> bool:
        """Return whether one state that is not older than `began` had a key and the other pieces.

        The lease must still be valid, and the key cannot have expired meanwhile.
        """
        now = self._lease.epoch
        begin, end = began, OPEN
        pieces: tuple[KnownKey | Snapshot, ...] = (key, *others)
        for piece in pieces:
            begin = max(begin, piece.label)
            end = min(end, piece.until if piece.until != OPEN else max(piece.label, now))
        return begin <= end and self._lease.covers(key.fresh_until)

    async def _claim(self, key: KnownKey, secret_hash: str) -> bool:
        """Record the first use of a key, or the first after long.

        Return False if it cannot be used any more, or has another secret now.
        """
        if not await self._first_uses.get((key.id, secret_hash)):
            self._keys.forget(key)  # the database is ahead of memory
            return False
        key.claim = None
        self._usage.written(key.id)
        return True

    async def _claim_first_uses(self, secret_hashes: list[tuple[KeyId, str]]) -> dict[tuple[KeyId, str], bool]:
        async with self._database.connection() as connection:
            return await key_uses.claim_first_uses(connection, secret_hashes)

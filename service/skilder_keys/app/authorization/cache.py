"""The keys in memory. They are verified and complete, and used only while the fence allows it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from skilder_keys.app.authorization.release import release
from skilder_keys.domain.token import claimed_id_text, id_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable

    from skilder_keys.app.authorization.tool_sets import SharedToolSet, ToolSets
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.storage.fence import Change

_RELEASE_CHUNK = 1000


class Scope:
    """The workspace of some keys in memory. When it changes, all these keys become stale at once."""

    __slots__ = ("__weakref__", "stale", "workspace_id")

    def __init__(self, workspace_id: WorkspaceId) -> None:
        self.workspace_id = workspace_id
        self.stale = False


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key whose token was verified, with everything that Authorize needs for a decision.

    Attributes:
        digest: The `hashing.TokenFingerprint` digest of its only token.
        denied: Why the key is denied; None if it may be used.
        head: The first part of every grant: the key, serialised.
        tool_set: What the key reaches, shared by all keys with the same reach; empty for a denied key.
        runtime: The runtime instance of a runtime key, as a caller; None for other keys.
    """

    key_id: KeyId
    digest: bytes
    scope: Scope
    denied: DenialReason | None
    head: bytes
    tool_set: SharedToolSet
    runtime: Caller | None


class Load:
    """A key that is being loaded, for all calls that need it meanwhile.

    Attributes:
        workspace_id: The workspace of the key, once it is known.
        invalidated: Whether something changed since. The calls that wait began before that, so they may use the result;
            no other call may, and it is not kept.
    """

    __slots__ = ("invalidated", "key_id", "task", "workspace_id")

    def __init__(self, key_id: KeyId) -> None:
        self.key_id = key_id
        self.workspace_id: WorkspaceId | None = None
        self.invalidated = False
        self.task: asyncio.Task[KnownKey | None]


class KeyCache:
    """A bounded cache of keys, which drops the least recently used ones; and the loads that fill it.

    Attributes:
        hits: The number of queries that found their key here.
        misses: The number of queries that did not.
    """

    def __init__(self, lease: Lease, fingerprint: TokenFingerprint, tool_sets: ToolSets, capacity: int) -> None:
        """Make an empty cache.

        Args:
            lease: The lease under which keys may be used.
            fingerprint: Computes the digests of tokens.
            tool_sets: The tool sets of the keys.
            capacity: The most keys.
        """
        self._lease = lease
        self._fingerprint = fingerprint
        self._tool_sets = tool_sets
        self._capacity = capacity
        self._keys: OrderedDict[str, KnownKey] = OrderedDict()  # by `id_text`
        self._scopes: WeakValueDictionary[WorkspaceId, Scope] = WeakValueDictionary()
        self._loads: dict[Hashable, Load] = {}  # only those that further calls may join
        self._running: set[asyncio.Task[KnownKey | None]] = set()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """Return the number of keys, including stale ones, which stay until they are replaced or dropped."""
        return len(self._keys)

    def find(self, text: str) -> KnownKey | None:
        """Return the key of a token; None if it is not here, or without a valid lease. Count a hit or a miss."""
        known = self.peek(text)
        if known is None:
            self.misses += 1
        else:
            self.hits += 1
        return known

    def peek(self, text: str) -> KnownKey | None:
        """Return what `find` returns, without counting."""
        id_ = claimed_id_text(text)
        known = self._keys.get(id_)
        if (
            known is None
            or known.scope.stale
            or known.tool_set.evicted
            or not self._lease.valid()
            or not compare_digest(known.digest, self._fingerprint.digest(text))
        ):
            return None
        self._keys.move_to_end(id_)
        self._tool_sets.use(known.tool_set)
        return known

    def rejects(self, key_id: KeyId, digest: bytes) -> bool:
        """Return whether the key is here, under a valid lease, and its only token has another digest."""
        known = self._keys.get(id_text(key_id))
        return (
            known is not None
            and not known.scope.stale
            and self._lease.valid()
            and not compare_digest(known.digest, digest)
        )

    async def load(
        self, query: Hashable, key_id: KeyId, read: Callable[[Load], Awaitable[KnownKey | None]]
    ) -> KnownKey | None:
        """Return what `read` returns for a key, and keep it if the fence allows it.

        With a lease, all calls with the same `query` share one load, until a change invalidates it. Without a lease,
        each call reads for itself and nothing is kept.
        """
        if not self._lease.valid():
            return await read(Load(key_id))
        load = self._loads.get(query)
        if load is None:
            load = self._loads[query] = Load(key_id)
            load.task = asyncio.create_task(self._run(load, query, read))
            load.task.add_done_callback(self._ended)
            self._running.add(load.task)
        return await asyncio.shield(load.task)

    def scope(self, workspace_id: WorkspaceId) -> Scope:
        """Return the current scope of a workspace; the next change of the workspace makes it stale."""
        scope = self._scopes.get(workspace_id)
        if scope is None:
            scope = self._scopes[workspace_id] = Scope(workspace_id)
        return scope

    def apply(self, change: Change) -> None:
        """Drop the keys that a change touches, and all keys of its workspaces."""
        self.drop(
            {touch.key_id for touch in change.touches if touch.key_id is not None},
            {touch.workspace_id for touch in change.touches if touch.workspace_id is not None},
        )

    def drop(self, key_ids: Collection[KeyId], workspace_ids: Collection[WorkspaceId]) -> None:
        """Drop keys, and all keys of some workspaces. Invalidate the loads that could load one of them."""
        for key_id in key_ids:
            self._keys.pop(id_text(key_id), None)
        for workspace_id in workspace_ids:
            scope = self._scopes.pop(workspace_id, None)
            if scope is not None:
                scope.stale = True
        # A load that does not know its workspace yet may be loading a key of one of these.
        touched = {None, *workspace_ids} if workspace_ids else ()
        self._invalidate(lambda load: load.key_id in key_ids or load.workspace_id in touched)

    def drop_all(self) -> None:
        """Drop everything, and invalidate all loads."""
        release(self._keys, _RELEASE_CHUNK)
        self._keys = OrderedDict()
        self._tool_sets.clear()
        self._invalidate(lambda _: True)

    def _invalidate(self, touched: Callable[[Load], bool]) -> None:
        for query, load in list(self._loads.items()):
            if touched(load):
                load.invalidated = True
                del self._loads[query]

    async def _run(
        self, load: Load, query: Hashable, read: Callable[[Load], Awaitable[KnownKey | None]]
    ) -> KnownKey | None:
        try:
            known = await read(load)
        finally:
            if not load.invalidated:
                del self._loads[query]
        if known is not None and not load.invalidated:
            self._keep(known)
        return known

    def _keep(self, known: KnownKey) -> None:
        self._keys[id_text(known.key_id)] = known
        if len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def _ended(self, task: asyncio.Task[KnownKey | None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case no caller waits for it any more

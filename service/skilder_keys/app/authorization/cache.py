"""Keys in memory, verified and complete, for as long as the fence vouches for them."""

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

_RELEASE_CHUNK = 1000


class Scope:
    """A workspace that keys in memory are of. When it changes, all of them are stale at once."""

    __slots__ = ("__weakref__", "stale", "workspace_id")

    def __init__(self, workspace_id: WorkspaceId) -> None:
        self.workspace_id = workspace_id
        self.stale = False


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key whose token was verified, with all that Authorize needs to answer for it.

    Attributes:
        digest: By which its token is known again, see `hashing.TokenFingerprint`. Any other token is not this key's.
        denied: Why the key is not good; None where it is.
        head: The start of every grant: the key, serialised.
        tool_set: What it reaches; shared by all keys that reach the same. Empty where the key is not good.
        runtime: The caller that a runtime key makes of its holder; None for other keys.
    """

    key_id: KeyId
    digest: bytes
    scope: Scope
    denied: DenialReason | None
    head: bytes
    tool_set: SharedToolSet
    runtime: Caller | None


class Load:
    """The reading of a key that is under way, for all who ask for its token meanwhile.

    Attributes:
        workspace_id: Whose key it is, once that is known.
        invalidated: A change overtook it: those who wait for it began before that and may have it, and nobody else.
    """

    __slots__ = ("invalidated", "key_id", "task", "workspace_id")

    def __init__(self, key_id: KeyId) -> None:
        self.key_id = key_id
        self.workspace_id: WorkspaceId | None = None
        self.invalidated = False
        self.task: asyncio.Task[KnownKey | None]


class KeyCache:
    """A bounded memory of keys, the least recently used of which go first; and the loads that fill it.

    Attributes:
        hits: How many queries were answered from it.
        misses: How many were not.
    """

    def __init__(self, lease: Lease, fingerprint: TokenFingerprint, tool_sets: ToolSets, capacity: int) -> None:
        """Takes the most keys it may hold."""
        self._lease = lease
        self._fingerprint = fingerprint
        self._tool_sets = tool_sets
        self._capacity = capacity
        self._keys: OrderedDict[str, KnownKey] = OrderedDict()  # by the id as tokens spell it
        self._scopes: WeakValueDictionary[WorkspaceId, Scope] = WeakValueDictionary()
        self._loads: dict[Hashable, Load] = {}  # those that may be joined: never a invalidated one
        self._running: set[asyncio.Task[KnownKey | None]] = set()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """Answers how many keys it holds; those that went stale are held until they are asked for or must go."""
        return len(self._keys)

    def find(self, text: str) -> KnownKey | None:
        """Answers the key whose token this is, while the lease holds; None where memory does not know. Is counted."""
        known = self.peek(text)
        if known is None:
            self.misses += 1
        else:
            self.hits += 1
        return known

    def peek(self, text: str) -> KnownKey | None:
        """Answers as `find`, uncounted."""
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
        """Tells whether memory holds the key and, by the digest of its one token, knows that this is another."""
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
        """Answers what `read` finds of a key, and keeps it where the fence can vouch for it.

        With a lease, all who ask the same query at the same time get the same answer, unless a change has overtaken
        the reading. Without one, each reads for itself and nothing is kept.
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
        """Answers the scope that keys of a workspace are kept under until it changes."""
        scope = self._scopes.get(workspace_id)
        if scope is None:
            scope = self._scopes[workspace_id] = Scope(workspace_id)
        return scope

    def drop(self, key_ids: Collection[KeyId], workspace_ids: Collection[WorkspaceId]) -> None:
        """Drop keys, and every key of some workspaces, and let no load that is under way keep one of them."""
        for key_id in key_ids:
            self._keys.pop(id_text(key_id), None)
        for workspace_id in workspace_ids:
            scope = self._scopes.pop(workspace_id, None)
            if scope is not None:
                scope.stale = True
        # A load that does not know yet whose key it reads may be reading one of a workspace.
        touched = {None, *workspace_ids} if workspace_ids else ()
        self._invalidate(lambda load: load.key_id in key_ids or load.workspace_id in touched)

    def drop_key(self, key_id: KeyId) -> None:
        """Forgets a key, and lets no load that is under way keep it."""
        self.drop((key_id,), ())

    def drop_workspace(self, workspace_id: WorkspaceId) -> None:
        """Forgets every key of a workspace, and lets no load that is under way keep one."""
        self.drop((), (workspace_id,))

    def drop_all(self) -> None:
        """Forgets everything, and lets no load that is under way keep anything."""
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
            task.exception()  # looked at, should nobody wait for it any more

"""The keys in memory: each one's own facts. What its workspace decides is in `snapshots`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import nullcontext
from hmac import compare_digest
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from skilder_keys.app.authorization.known_key import Scope
from skilder_keys.app.authorization.release import release
from skilder_keys.app.authorization.snapshot import OPEN, VOID
from skilder_keys.app.batching import Shared
from skilder_keys.domain.token import claimed_id_text, id_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId, WorkspaceId

_RELEASE_CHUNK = 1000


class KeyLoad:
    """A key that is being loaded, for all calls that need it meanwhile.

    Attributes:
        touches: The changes that touched it since the load began: their epochs, and the workspace if a change touched
            all keys of a workspace, which may be that of the key.
        drops: How often memory had been dropped when it was made.
        begun: Whether it has had its turn.
        result: For the calls.
    """

    __slots__ = ("begun", "digest", "drops", "key_id", "result", "task", "touches")

    def __init__(self, key_id: KeyId, digest: bytes, drops: int) -> None:
        self.key_id = key_id
        self.digest = digest
        self.touches: list[tuple[int, WorkspaceId | None]] = []
        self.drops = drops
        self.begun = False
        self.result: Shared[KnownKey | None] = Shared()
        self.task: asyncio.Task[None]


class KeyCache:
    """A bounded cache of keys, which drops the least recently used ones; and the loads that fill it."""

    def __init__(self, lease: Lease, fingerprint: TokenFingerprint, capacity: int) -> None:
        """Make an empty cache.

        Args:
            lease: The lease under which keys may be used.
            fingerprint: Computes the digests of tokens.
            capacity: The most keys.
        """
        self._lease = lease
        self._fingerprint = fingerprint
        self._capacity = capacity
        self._keys: OrderedDict[str, KnownKey] = OrderedDict()  # by `id_text`
        self._scopes: WeakValueDictionary[WorkspaceId, Scope] = WeakValueDictionary()
        self._joinable: dict[bytes, KeyLoad] = {}  # by the digest of the token
        self._reading: dict[KeyId, set[KeyLoad]] = {}
        self._drops = 0

    @property
    def epoch(self) -> int:
        """The change that memory is in step with."""
        return self._lease.epoch

    def __len__(self) -> int:
        """Return the number of keys, including those that a change of all keys of a workspace has touched."""
        return len(self._keys)

    @property
    def is_full(self) -> bool:
        """Whether another key would take the place of one."""
        return len(self._keys) >= self._capacity

    @property
    def drops(self) -> int:
        """How often everything was dropped."""
        return self._drops

    def find(self, text: str) -> KnownKey | None:
        """Return the key of a token, as it is at the epoch of memory.

        None if it is not here, has to be read again, or without a lease.
        """
        id_ = claimed_id_text(text)
        known = self._keys.get(id_)
        if (
            known is None
            or known.scope.until != OPEN
            or not self._lease.covers(known.fresh_until)
            or not compare_digest(known.digest, self._fingerprint.digest(text))
        ):
            return None
        self._keys.move_to_end(id_)
        return known

    def get(self, key_id: KeyId) -> KnownKey | None:
        """Return a key, as it is at the epoch of memory, whatever its token is; None as `find`."""
        known = self._keys.get(id_text(key_id))
        if known is None or known.scope.until != OPEN or not self._lease.covers(known.fresh_until):
            return None
        return known

    def scope(self, workspace_id: WorkspaceId) -> Scope:
        """Return what the keys of a workspace share. The next change of all of them ends it."""
        scope = self._scopes.get(workspace_id)
        if scope is None:
            scope = self._scopes[workspace_id] = Scope(workspace_id)
        return scope

    async def load(
        self,
        key_id: KeyId,
        digest: bytes,
        read: Callable[[], Awaitable[KnownKey | None]],
        turn: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> KnownKey | None:
        """Return what `read` returns for a token, and keep it if the fence allows it.

        All calls with the same token share a load, until a change touches the key. Call it only under a lease. The key
        may be closed, if a change touched it meanwhile.

        Args:
            key_id: The key.
            digest: The digest of the token.
            read: Reads the key.
            turn: Returns the context in which a load runs, if there is none to share. While it waits to enter, and all
                of its calls give up, the load is dropped.
        """
        load = self._joinable.get(digest)
        if load is None:
            context = turn()
            load = self._joinable[digest] = KeyLoad(key_id, digest, self._drops)
            load.task = asyncio.create_task(self._run(load, read, context))
        try:
            return await load.result.wait()
        except asyncio.CancelledError:
            if not load.begun and not load.result.wanted:
                self._leave(load)
                load.task.cancel()
            raise

    async def load_ahead(
        self, key_ids: Iterable[KeyId], read: Callable[[list[KeyId]], Awaitable[Sequence[KnownKey]]]
    ) -> None:
        """Load keys for which nobody has asked yet, and keep them if the fence allows it and there is room.

        Call it only under a lease.

        Args:
            key_ids: The keys. Those that are here already are not read.
            read: Reads keys in one statement; it may leave some out.
        """
        loads = {each: KeyLoad(each, b"", self._drops) for each in key_ids if id_text(each) not in self._keys}
        for load in loads.values():
            self._begin(load)
        try:
            found = await read(list(loads))
            caught_up = bool(found) and await self._lease.reach(found[0].label)
            for known in found:
                if id_text(known.id) not in self._keys and not self.is_full:
                    self._settled(loads[known.id], known, caught_up=caught_up)
        finally:
            for load in loads.values():
                self._end(load)

    def apply(self, key_id: KeyId | None, workspace_id: WorkspaceId | None, epoch: int) -> None:
        """Drop a key that a change has touched, or all keys of a workspace. Let no call join a load of one of them."""
        if key_id is not None:
            known = self._keys.pop(id_text(key_id), None)
            if known is not None:
                known.close(epoch - 1)
        elif workspace_id is not None:
            scope = self._scopes.pop(workspace_id, None)
            if scope is not None:
                scope.until = epoch - 1
        for load in self._overtaken(key_id):
            load.touches.append((epoch, workspace_id))
            self._leave(load)

    def forget(self, known: KnownKey) -> None:
        """Drop a key, so that it is loaded again."""
        if self._keys.get(id_text(known.id)) is known:
            del self._keys[id_text(known.id)]
            known.close(self._lease.epoch)

    def drop_all(self) -> None:
        """Drop everything, and make the results of all loads unusable."""
        for scope in self._scopes.values():
            scope.until = VOID
        self._drops += 1  # so all loads are void, also those that wait for their turn
        self._joinable = {}
        self._scopes = WeakValueDictionary()
        release(self._keys, _RELEASE_CHUNK)
        self._keys = OrderedDict()

    def _overtaken(self, key_id: KeyId | None) -> list[KeyLoad]:
        """Return the loads that read a key, or any key for None. What waits for its turn reads it after the change."""
        found = self._reading.values() if key_id is None else [self._reading.get(key_id, ())]
        return [load for loads in found for load in loads]

    async def _run(
        self, load: KeyLoad, read: Callable[[], Awaitable[KnownKey | None]], turn: AbstractAsyncContextManager[object]
    ) -> None:
        try:
            async with turn:
                self._begin(load)
                known = await read()
            caught_up = known is None or await self._lease.reach(known.label)
        except asyncio.CancelledError:
            load.result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - `load` raises it
            load.result.set_exception(error)
        else:
            load.result.set_result(self._settled(load, known, caught_up=caught_up))
        finally:
            self._end(load)

    def _begin(self, load: KeyLoad) -> None:
        """Note that a load reads its key from now on."""
        load.begun = True
        self._reading.setdefault(load.key_id, set()).add(load)

    def _end(self, load: KeyLoad) -> None:
        """Forget a load."""
        self._leave(load)
        loads = self._reading.get(load.key_id, set())
        loads.discard(load)
        if not loads:
            self._reading.pop(load.key_id, None)

    def _settled(self, load: KeyLoad, known: KnownKey | None, *, caught_up: bool) -> KnownKey | None:
        """Return a key that was read, closed by what has touched it meanwhile, and keep it if it is open."""
        if known is None:
            return None
        if load.drops != self._drops:
            known.close(VOID)
        for epoch, workspace_id in load.touches:
            if epoch > known.label and workspace_id in (None, known.workspace_id):
                known.close(epoch - 1)
        if not caught_up:
            known.close(known.label)
        elif known.until == OPEN:
            self._keep(known)
        return known

    def _keep(self, known: KnownKey) -> None:
        id_ = id_text(known.id)
        replaced = [self._keys.pop(id_)] if id_ in self._keys else []
        self._keys[id_] = known
        if len(self._keys) > self._capacity:
            replaced.append(self._keys.popitem(last=False)[1])
        for former in replaced:
            former.close(self._lease.epoch)  # from now on, no change is noted there

    def _leave(self, load: KeyLoad) -> None:
        """Let no further call join a load."""
        if self._joinable.get(load.digest) is load:
            del self._joinable[load.digest]

"""The keys in memory: each one's own facts. What its workspace decides is in `snapshots`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from skilder_keys.app.authorization.key_load import KeyLoad
from skilder_keys.app.authorization.known_key import Scope
from skilder_keys.app.authorization.release import release
from skilder_keys.app.authorization.snapshot import OPEN, VOID
from skilder_keys.domain.token import claimed_id_text, id_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.lanes import Lane
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId, WorkspaceId

    Ended = KnownKey | Exception | asyncio.CancelledError | None
    """What a read ends with: the key, None if no key has the token, or the error."""
    Read = Callable[[Callable[[Ended], None]], None]
    """Begins to read a key, and reports later what it ends with."""

_RELEASE_CHUNK = 1000


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
        self._reading: dict[str, set[KeyLoad]] = {}  # by `id_text`
        self._drops = 0
        self._tasks: set[asyncio.Task[None]] = set()  # kept here, because the event loop has only weak references

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

    def get(self, id_: str) -> KnownKey | None:
        """Return a key by its id as tokens spell it, whatever its token is, as `find` does."""
        known = self._keys.get(id_)
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
        id_: str,
        digest: bytes,
        read: Read,
        next_lane: Callable[[], Lane],
    ) -> KnownKey | None:
        """Return the key that is read for a token, and keep it if the fence allows it.

        All calls with the same token share a load, until a change touches the key. Call it only under a lease. The key
        may be closed, if a change touched it meanwhile.

        Args:
            id_: The key's id as tokens spell it.
            digest: The digest of the token.
            read: Begins to read the key.
            next_lane: Returns the lane in which a load has its turn, if there is none to share. If all of its calls
                give up while it waits for its turn, the load is dropped.

        Raises:
            BusyError: The load would wait too long.
        """
        load = self._joinable.get(digest)
        if load is None:
            lane = next_lane()
            load = KeyLoad(id_, digest, self._drops)
            load.turn = lane.begin()
            self._joinable[digest] = load
            if load.turn is None:
                self._read(load, read, lane)
            else:
                load.turn.add_done_callback(partial(self._have_turn, load, read, lane))
        try:
            return await load.result.wait()
        except asyncio.CancelledError:
            if load.turn is not None and not load.turn.done() and not load.result.wanted:
                self._leave(load)
                load.turn.cancel()
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
        ids = {each: id_text(each) for each in key_ids}
        loads = {each: KeyLoad(id_, b"", self._drops) for each, id_ in ids.items() if id_ not in self._keys}
        for load in loads.values():
            self._begin(load)
        try:
            found = await read(list(loads))
            caught_up = bool(found) and await self._lease.reach(found[0].label)
            for known in found:
                if ids[known.id] not in self._keys and not self.is_full:
                    self._settled(loads[known.id], known, caught_up=caught_up)
        finally:
            for load in loads.values():
                self._end(load)

    def apply(self, key_id: KeyId | None, workspace_id: WorkspaceId | None, epoch: int) -> None:
        """Drop a key that a change has touched, or all keys of a workspace. Let no call join a load of one of them."""
        id_ = None if key_id is None else id_text(key_id)
        if id_ is not None:
            known = self._keys.pop(id_, None)
            if known is not None:
                known.close(epoch - 1)
        elif workspace_id is not None:
            scope = self._scopes.pop(workspace_id, None)
            if scope is not None:
                scope.until = epoch - 1
        for load in self._overtaken(id_):
            load.touches.append((epoch, workspace_id))
            self._leave(load)

    def forget(self, known: KnownKey) -> None:
        """Drop a key, so that it is loaded again."""
        id_ = id_text(known.id)
        if self._keys.get(id_) is known:
            del self._keys[id_]
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

    def _overtaken(self, id_: str | None) -> list[KeyLoad]:
        """Return the loads that read a key, or any key for None. What waits for its turn reads it after the change."""
        found = self._reading.values() if id_ is None else [self._reading.get(id_, ())]
        return [load for loads in found for load in loads]

    def _have_turn(self, load: KeyLoad, read: Read, lane: Lane, turn: asyncio.Future[None]) -> None:
        if not turn.cancelled():
            self._read(load, read, lane)

    def _read(self, load: KeyLoad, read: Read, lane: Lane) -> None:
        self._begin(load)
        read(partial(self._have_read, load, lane))

    def _have_read(self, load: KeyLoad, lane: Lane, ended: Ended) -> None:
        lane.end()
        if isinstance(ended, (Exception, asyncio.CancelledError)):
            self._end(load)
            load.result.fail(ended)
        elif ended is None or self._lease.has_reached(ended.label):
            self._finish(load, ended, caught_up=True)
        else:
            task = asyncio.create_task(self._catch_up(load, ended))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _catch_up(self, load: KeyLoad, known: KnownKey) -> None:
        """Wait until memory has reached a key that is ahead of it."""
        try:
            caught_up = await self._lease.reach(known.label)
        except asyncio.CancelledError as error:
            self._end(load)
            load.result.fail(error)
            raise
        self._finish(load, known, caught_up=caught_up)

    def _finish(self, load: KeyLoad, known: KnownKey | None, *, caught_up: bool) -> None:
        load.result.set_result(self._settled(load, known, caught_up=caught_up))
        self._end(load)

    def _begin(self, load: KeyLoad) -> None:
        """Note that a load reads its key from now on."""
        self._reading.setdefault(load.id, set()).add(load)

    def _end(self, load: KeyLoad) -> None:
        """Forget a load."""
        self._leave(load)
        loads = self._reading.get(load.id)
        if loads is not None:
            loads.discard(load)
            if not loads:
                del self._reading[load.id]

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
            self._keep(load.id, known)
        return known

    def _keep(self, id_: str, known: KnownKey) -> None:
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

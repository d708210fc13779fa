"""The keys in memory: each one's own facts. What its workspace decides is in `snapshots`."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from contextlib import nullcontext
from hmac import compare_digest
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from skilder_keys.app.authorization.release import release
from skilder_keys.app.authorization.snapshot import OPEN, VOID
from skilder_keys.app.batching import Shared
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.token import claimed_id_text, id_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from skilder_keys.app.authorization.tool_sets import SharedToolSet
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import HatId, KeyId, TeamId, UserId, WorkspaceId

_RELEASE_CHUNK = 1000


_EXACT_SECONDS = 60.0


def fresh_until(asked_at: float, seconds_left: float | None) -> float:
    """Return until when a key can be used without reading it again.

    Of a long time a twentieth comes off, as of a lease, since two clocks never run at the same rate. When the key is
    read again then, what is left is shorter, so the last minute is counted exactly.

    Args:
        asked_at: A time before the query was sent.
        seconds_left: How long the key was still valid, by the database's clock; None if it does not expire.
    """
    if seconds_left is None or seconds_left <= 0:
        return math.inf
    return asked_at + (seconds_left if seconds_left <= _EXACT_SECONDS else seconds_left * 19 / 20)


class Scope:
    """The keys of a workspace in memory, for a change of all of them at once.

    Attributes:
        until: The last epoch at which they were what memory has; OPEN while no change has touched all of them.
    """

    __slots__ = ("__weakref__", "until", "workspace_id")

    def __init__(self, workspace_id: WorkspaceId) -> None:
        self.workspace_id = workspace_id
        self.until: float = OPEN


class KnownKey:
    """A key whose token was verified. Nothing here depends on its workspace.

    Attributes:
        digest: The `hashing.TokenFingerprint` digest of its only token.
        user_id: The user of a user key.
        hat_ids: The hats that a limited key may reach; None without a limit.
        team_ids: The teams whose hats it reaches, as in `permissions.Reach`; of a user key, the workspace knows them.
        denial: Why it is denied, unless its workspace denies it first: see `outcome`; None if its workspace decides.
        fresh_until: When it has to be read again, on the clock of the lease: it may have expired by then.
        head: The first part of every grant: the key, serialised.
        runtime: The runtime instance of a runtime key, as a caller; None for other keys.
        claim: The hash of its secret while no use of it is recorded: the first grant records one. Then None.
        version: The version of its workspace at the label.
        label: An epoch at which this was its state.
    """

    __slots__ = (
        "_until", "claim", "denial", "digest", "fresh_until", "hat_ids", "head", "id", "label", "runtime", "scope",
        "team_ids", "user_id", "version",
    )  # fmt: skip

    def __init__(
        self,
        id_: KeyId,
        digest: bytes,
        scope: Scope,
        user_id: UserId | None,
        hat_ids: frozenset[HatId] | None,
        team_ids: frozenset[TeamId] | None,
        *,
        denial: DenialReason | None,
        fresh_until: float,
        head: bytes,
        runtime: Caller | None,
        claim: str | None,
        version: int,
        label: int,
    ) -> None:
        self.id = id_
        self.digest = digest
        self.scope = scope
        self.user_id = user_id
        self.hat_ids = hat_ids
        self.team_ids = team_ids
        self.denial = denial
        self.fresh_until = fresh_until
        self.head = head
        self.runtime = runtime
        self.claim = claim
        self.version = version
        self.label = label
        self._until: float = OPEN

    @property
    def workspace_id(self) -> WorkspaceId:
        """Its workspace."""
        return self.scope.workspace_id

    @property
    def until(self) -> float:
        """The last epoch at which this was its state; OPEN while no change has touched it."""
        return min(self._until, self.scope.until)

    def outcome(self, reached: SharedToolSet | DenialReason) -> SharedToolSet | DenialReason:
        """Return what the key reaches or why it is denied, by that of its workspace, which denies it first."""
        return reached if self.denial is None or isinstance(reached, DenialReason) else self.denial

    def close(self, epoch: float) -> None:
        """Note that this was its state up to an epoch, and not later."""
        self._until = min(self._until, epoch)


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

    def __len__(self) -> int:
        """Return the number of keys, including those that a change of all keys of a workspace has touched."""
        return len(self._keys)

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
                load.begun = True
                self._reading.setdefault(load.key_id, set()).add(load)
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

"""Both levels of memory, with a lease, loads and changes that a test controls."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.known_key import KnownKey
from skilder_keys.app.authorization.memory import Memory
from skilder_keys.app.authorization.snapshots import Snapshots
from skilder_keys.app.fence.lease import Lease
from skilder_keys.domain.hashing import TokenFingerprint
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.token import KeyType, Token, id_text
from skilder_keys.offload import Offload
from skilder_keys.storage.fence import Change, Touch
from tests.support.clock import FakeClock
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys.app.authorization.key_cache import Ended
    from skilder_keys.app.authorization.lanes import Lane
    from skilder_keys.domain.difference import Part
    from skilder_keys.domain.ids import KeyId

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")


class TestedMemory:
    """Memory for at most three keys, with a running lease, and loads of keys that end when the test says so.

    Attributes:
        reads: The loads of keys that have begun; each ends when its future has a result.
    """

    __test__ = False

    def __init__(self, reads: Any = None, capacity: int = 2**20) -> None:
        """Make it empty. `reads` is used by the loads of workspaces."""
        self.clock = FakeClock()
        self.lease = Lease(self.clock)
        self.renew()
        self.fingerprint = TokenFingerprint()
        self.keys = KeyCache(self.lease, self.fingerprint, 3)
        self.offload = Offload()
        self.snapshots = Snapshots(reads, self.lease, self.offload, capacity)
        self.memory = Memory(self.keys, self.snapshots)
        self.reads: list[asyncio.Future[None]] = []
        self.gate = FirstSights(self.clock, 100)
        self._tasks: set[asyncio.Task[None]] = set()

    def renew(self) -> None:
        """Give the process a lease of two seconds from now."""
        self.lease.renew(self.clock.now, self.clock.now + 2)

    def lapse(self) -> None:
        """Let the lease run out."""
        self.clock.now += 2

    def change(self, *touches: Touch) -> None:
        """Apply the next change."""
        epoch = self.lease.epoch + 1
        self.memory.apply(Change(Revision(epoch, epoch), epoch - 1, touches))
        self.lease.advance(Revision(epoch, epoch))

    def known(self, token: Token, workspace_id: WorkspaceId = ACME, label: int | None = None) -> KnownKey:
        """Return what a load of the token's key finds; by default at the current epoch."""
        return known_key(token, self.keys, self.fingerprint, workspace_id, self.lease.epoch if label is None else label)

    def reading(self, token: Token, workspace_id: WorkspaceId = ACME) -> Callable[[], Awaitable[KnownKey | None]]:
        """Return a read that finds the key as it is now, once the test releases it."""

        async def read() -> KnownKey | None:
            known = self.known(token, workspace_id)
            released = asyncio.get_running_loop().create_future()
            self.reads.append(released)
            await released
            return known

        return read

    async def load(
        self,
        token: Token,
        workspace_id: WorkspaceId = ACME,
        *,
        digest: bytes | None = None,
        read: Callable[[], Awaitable[KnownKey | None]] | None = None,
    ) -> KnownKey | None:
        """Load a key with a read; by default one that waits until the test releases it."""
        found = read or self.reading(token, workspace_id)

        def begin(end: Callable[[Ended], None]) -> None:
            task = asyncio.create_task(_report(found, end))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        digest = self.fingerprint.digest(token.reveal()) if digest is None else digest
        return await self.keys.load(id_text(token.key_id), digest, begin, lambda: self.gate.lane(token.key_id))

    def get(self, key_id: KeyId) -> KnownKey | None:
        """Return a key in memory."""
        return self.keys.get(id_text(key_id))

    def take_places(self, count: int = 128) -> list[Lane]:
        """Take so many places at the gate of loads, by default all: others wait until the lanes are ended."""
        lanes = [self.gate.lane(number) for number in range(count)]
        for lane in lanes:
            assert lane.begin() is None
        return lanes

    def let_go(self, index: int) -> None:
        """Release a load."""
        self.reads[index].set_result(None)

    async def keep(self, token: Token, workspace_id: WorkspaceId = ACME) -> KnownKey:
        """Load a key, so that it is in memory afterwards."""
        task = asyncio.create_task(self.load(token, workspace_id))
        await turns()
        self.let_go(-1)
        known = await task
        assert known is not None
        return known


async def _report(read: Callable[[], Awaitable[KnownKey | None]], end: Callable[[Ended], None]) -> None:
    try:
        found: Ended = await read()
    except Exception as error:  # noqa: BLE001 - the load raises it
        found = error
    end(found)


def known_key(
    token: Token, keys: KeyCache, fingerprint: TokenFingerprint, workspace_id: WorkspaceId, label: int
) -> KnownKey:
    """Return a key without a limit, of the user `ann` if it is a user key."""
    return KnownKey(
        token.key_id,
        fingerprint.digest(token.reveal()),
        keys.scope(workspace_id),
        UserId("ann") if token.type is KeyType.USER else None,
        None,
        None,
        networks=None,
        denial=None,
        fresh_until=math.inf,
        head=b"",
        runtime=None,
        claim=None,
        version=1,
        label=label,
    )


def touched_key(key_id: KeyId) -> Touch:
    """Return the touch of a key."""
    return Touch(key_id, None, None, None)


def touched_keys(workspace_id: WorkspaceId) -> Touch:
    """Return the touch of all keys of a workspace."""
    return Touch(None, workspace_id, None, None)


def touched_part(part: Part, part_id: str | None = None, workspace_id: WorkspaceId = ACME) -> Touch:
    """Return the touch of a part of a workspace, or of all parts of a kind."""
    return Touch(None, workspace_id, part, part_id)


async def turns() -> None:
    """Run the event loop until nothing is ready any more."""
    for _ in range(20):
        await asyncio.sleep(0)


def minted(type_: KeyType = KeyType.WORKSPACE) -> Token:
    """Make a token of a new key."""
    return Token.mint(type_, new_key_id())

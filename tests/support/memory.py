"""A cache whose lease and loads a test controls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.cache import KeyCache, KnownKey, Load
from skilder_keys.app.authorization.tool_sets import SharedToolSet, ToolSets
from skilder_keys.app.fence.lease import Lease
from skilder_keys.domain.hashing import TokenFingerprint
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.permissions import ToolSet
from skilder_keys.domain.token import KeyType, Token
from tests.support.clock import FakeClock
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
NO_TOOLS = SharedToolSet(ToolSet())


class Memory:
    """A cache of at most three keys with a running lease, and loads that end when the test says so."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lease = Lease(self.clock)
        self.renew()
        self.fingerprint = TokenFingerprint()
        no_database: Any = None  # no tool set is read here
        self.tool_sets = ToolSets(no_database, 2**20)
        self.cache = KeyCache(self.lease, self.fingerprint, self.tool_sets, 3)
        self.reads: list[tuple[Load, asyncio.Future[None]]] = []

    def renew(self) -> None:
        """Give the process a lease of two seconds from now."""
        self.lease.renew(self.clock.now, self.clock.now + 2)

    def lapse(self) -> None:
        """Let the lease run out."""
        self.clock.now += 2

    def known(self, token: Token, workspace_id: WorkspaceId = ACME) -> KnownKey:
        """Return what a load of the token's key finds."""
        return KnownKey(
            key_id=token.key_id,
            digest=self.fingerprint.digest(token.reveal()),
            scope=self.cache.scope(workspace_id),
            denied=None,
            head=b"",
            tool_set=NO_TOOLS,
            runtime=None,
        )

    def reading(self, token: Token, workspace_id: WorkspaceId = ACME) -> Callable[[Load], Awaitable[KnownKey | None]]:
        """Return a load function that finds the key once the test releases it."""

        async def read(load: Load) -> KnownKey | None:
            released = asyncio.get_running_loop().create_future()
            self.reads.append((load, released))
            await released
            load.workspace_id = workspace_id
            return self.known(token, workspace_id)

        return read

    async def load(self, token: Token, workspace_id: WorkspaceId = ACME) -> KnownKey | None:
        """Load a key with a load function that waits until the test releases it."""
        return await self.cache.load(token, token.key_id, self.reading(token, workspace_id))

    def let_go(self, index: int) -> None:
        """Release a load."""
        self.reads[index][1].set_result(None)

    async def keep(self, token: Token, workspace_id: WorkspaceId = ACME) -> KnownKey:
        """Load a key, so that it is in memory afterwards."""
        task = asyncio.create_task(self.load(token, workspace_id))
        await turns()
        self.let_go(-1)
        known = await task
        assert known is not None
        return known


async def turns() -> None:
    """Run the event loop until nothing is ready any more."""
    for _ in range(20):
        await asyncio.sleep(0)


def minted() -> Token:
    """Make a token of a new key."""
    return Token.mint(KeyType.WORKSPACE, new_key_id())

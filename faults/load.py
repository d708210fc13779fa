"""What the clients of a run do: they authorize all the time, and most often keys that are being changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from faults.fleet import FAR, NEAR
from faults.history import EVERYBODY, OK
from faults.lives import WORKSPACES, Lives
from faults.plan import LEAVER, STAYERS, TOOLS, Plan
from faults.queries import Query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from faults.clients import Clients
    from faults.queries import Key

SERVERS = (NEAR, FAR)
BUSY_WORKSPACES = ("red", "green", "blue")
"""Workspaces that change several times a second, with nobody looking."""
_POOL = 20
"""How many keys there are, besides those that are never revoked."""


class Load(Lives):
    """The actions of the clients. Each is repeated until `stop`, and finishes what it has begun.

    Attributes:
        workspaces: Every workspace that was created.
    """

    def __init__(self, clients: Clients, dice: Random) -> None:
        super().__init__(clients, dice)
        self.workspaces: list[str] = []
        self._pool: list[Key] = []
        self._plans: dict[str, Plan] = {}
        self._versions: dict[str, int] = {}
        self._stopping = asyncio.Event()

    async def prepare(self) -> None:
        """Create the workspaces, with keys for everybody."""
        for workspace in (*WORKSPACES, *BUSY_WORKSPACES):
            await self._apply(Plan.drawn(workspace, self._dice))
            keys = await asyncio.gather(*(self.issued(workspace, each) for each in (EVERYBODY, *STAYERS, LEAVER)))
            for key in keys:
                self.show(key)
        for _ in range(_POOL):
            await self._add_to_pool()

    async def run(self) -> None:
        """Run all actions concurrently."""
        async with asyncio.TaskGroup() as group:
            changing = (*[self._revoke] * 2, self._revoke_batch, self._suspend, self._limit)
            for doing in (*[self._ask] * 5, *changing, self._renew, *[self._rotate] * 2, self._delete):
                group.create_task(self._again(doing))
            for workspace in WORKSPACES:
                group.create_task(self._again(self._move, workspace))
            for workspace in BUSY_WORKSPACES:
                group.create_task(self._again(self._edit, workspace))

    def stop(self) -> None:
        """Stop all actions soon."""
        self._stopping.set()

    async def _again(self, doing: Callable[..., Awaitable[None]], *arguments: object) -> None:
        while not self._stopping.is_set():
            await doing(*arguments)

    async def _ask(self) -> None:
        """Query any token; most often all tools of a good key."""
        if self._dice.random() < 0.1:
            await self._clients.ask_batch([self._query() for _ in range(self._dice.randint(1, 10))])
        else:
            await self._clients.ask(self._query())
        await self._pause(0.03)

    def _query(self) -> Query:
        key = self._dice.choice(self._good if self._dice.random() < 0.7 else self._shown)
        token = self._dice.choice(list(key.tokens)) if self._dice.random() < 0.1 else key.token
        return Query(key, token, self._dice.choice(TOOLS) if self._dice.random() < 0.2 else "")

    async def _revoke(self) -> None:
        """Let every worker learn of a key, new or old, and then revoke it."""
        await self._add_to_pool()
        key = self._pool.pop(self._dice.choice((-1, self._dice.randrange(len(self._pool)))))
        # Sometimes with one server only, so that a hanging server does not delay everything.
        lines = self._clients.of(*self._dice.choice((SERVERS, SERVERS, *((server,) for server in SERVERS))))
        await self._clients.ask_all(key, lines)
        await self.revoked_while_hot(key, lines)
        await self._pause(0.2)
        await self._clients.ask_all(key, lines)

    async def _move(self, workspace: str) -> None:
        """Move something, and query before and after it those keys that gain or lose by it."""
        before = self._plans[workspace]
        after = before.moved(self._dice)
        changed = {
            subject
            for subject in (EVERYBODY, *STAYERS, LEAVER)
            if before.reach().get(subject) != after.reach().get(subject)
        }
        keys = [key for key in self._good if key.workspace == workspace and key.subject in changed]
        chosen = self._dice.sample(keys, min(2, len(keys)))
        await asyncio.gather(*map(self._clients.ask_all, chosen))
        await self._apply(after, in_parts=self._dice.random() < 0.5)
        await asyncio.gather(*map(self._clients.ask_all, chosen))
        await self._pause(0.3)

    async def _edit(self, workspace: str) -> None:
        """Change a part of a workspace, and then the next one."""
        await self._apply(self._plans[workspace].moved(self._dice), in_parts=True)
        await self._pause(0.2)

    async def _delete(self) -> None:
        """Create a workspace, use it and delete it."""
        workspace = f"gone{next(self._numbers)}"
        await self._apply(Plan.drawn(workspace, self._dice))
        keys = [await self.issued(workspace) for _ in range(2)]
        await asyncio.gather(*map(self._clients.ask_all, keys))
        version = self._versions[workspace] + 1
        await self._until_ok(lambda: self._clients.delete(workspace, version))
        await asyncio.gather(*map(self._clients.ask_all, keys))
        for key in keys:
            self.show(key, good=False)
        await self._pause(1.5)

    async def _add_to_pool(self) -> None:
        key = await self.issued()
        self.show(key)
        self._pool.append(key)

    async def _apply(self, plan: Plan, *, in_parts: bool = False) -> None:
        """Bring a workspace to this next version, as a whole or by the parts that differ, until that succeeds."""
        before = self._plans[plan.id] if in_parts else None
        expected = self._versions.get(plan.id, 0)
        version = expected + 1
        while (code := await self._clients.apply(plan, version, expected, before)) != OK:
            if code == "ABORTED":
                # An attempt succeeded though its response was lost. One more makes the change hold everywhere.
                expected = version
            await self._pause(0.1)
        if plan.id not in self._versions:
            self.workspaces.append(plan.id)
        self._plans[plan.id] = plan
        self._versions[plan.id] = version

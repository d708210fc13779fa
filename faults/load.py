"""What the clients of a run do: they authorize all the time, and most often keys that are being changed."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from faults.clients import Key, Query
from faults.fleet import FAR, NEAR
from faults.history import EVERYBODY, FORGED, OK
from faults.plan import LEAVER, STAYERS, TOOLS, Plan
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from faults.clients import Clients, Line

SERVERS = (NEAR, FAR)
WORKSPACES = ("north", "south")
BUSY_WORKSPACES = ("red", "green", "blue")
"""Workspaces that change several times a second, with nobody looking."""
_POOL = 20
"""How many keys there are, besides those that are never revoked."""


class Load:
    """The actions of the clients. Each is repeated until `stop`, and finishes what it has begun.

    Attributes:
        keys: Every issued key.
        workspaces: Every workspace that was created.
    """

    def __init__(self, clients: Clients, dice: Random) -> None:
        self.keys: list[Key] = []
        self.workspaces: list[str] = []
        self._clients = clients
        self._dice = dice
        self._shown: list[Key] = []
        self._good: list[Key] = []
        self._pool: list[Key] = []
        self._plans: dict[str, Plan] = {}
        self._versions: dict[str, int] = {}
        self._numbers = count(1)
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
            for doing in (*[self._ask] * 5, *[self._revoke] * 3, self._renew, *[self._rotate] * 2, self._delete):
                group.create_task(self._again(doing))
            for workspace in WORKSPACES:
                group.create_task(self._again(self._move, workspace))
            for workspace in BUSY_WORKSPACES:
                group.create_task(self._again(self._edit, workspace))

    def stop(self) -> None:
        """Stop all actions soon."""
        self._stopping.set()

    async def issued(self, workspace: str = "", subject: str = "") -> Key:
        """Return a new key, which only the caller uses until it is shown."""
        key = Key(
            f"k{next(self._numbers)}",
            workspace or self._dice.choice(WORKSPACES),
            subject or self._dice.choice((EVERYBODY, *STAYERS)),
        )
        await self._until_ok(lambda: self._clients.issue(key))
        key.tokens[FORGED] = _forged(key)
        self.keys.append(key)
        return key

    def show(self, key: Key, *, good: bool = True) -> None:
        """Let other clients query a key too; they query good keys most often."""
        self._shown.append(key)
        if good:
            self._good.append(key)

    async def revoked(self, key: Key, line: Line | None = None) -> None:
        """Revoke a key, retrying until it succeeds."""
        if key in self._good:
            self._good.remove(key)
        await self._until_ok(lambda: self._clients.revoke(key, line))

    async def revoked_while_hot(self, key: Key, lines: Sequence[Line], line: Line | None = None) -> None:
        """Revoke a key over `line` while `lines` query it, and query it again as soon as that returned."""
        over = asyncio.Event()

        async def hammer(each: Line) -> None:
            while not over.is_set():
                await self._clients.ask(Query(key, key.token), each)
                await asyncio.sleep(self._dice.uniform(0.0, 0.1))

        async with asyncio.TaskGroup() as group:
            for each in lines:
                group.create_task(hammer(each))
            await self.revoked(key, line)
            over.set()
            group.create_task(self._clients.ask_all(key, lines))

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

    async def _renew(self) -> None:
        """Renew the secret of a key that was never used, though others have tried its id, or that is being used."""
        key = await self.issued()
        old = key.token
        await self._clients.ask_all(key, token=FORGED)
        racing = self._dice.random() < 0.3
        using = asyncio.create_task(self._clients.ask(Query(key, old))) if racing else None
        while (code := await self._clients.issue(key)) not in {OK, "ALREADY_EXISTS"}:
            await self._pause(0.1)
        await asyncio.gather(*(self._clients.ask_all(key, token=token) for token in {FORGED, old, key.token}))
        if using is not None:
            await using
        assert racing or code == OK, "an unused key is renewed"
        self.show(key)
        await self._pause(0.3)

    async def _rotate(self) -> None:
        """Rotate a key that is in use, and use both until the old one has expired.

        Sometimes the family is revoked before that, or just as it is rotated.
        """
        old = await self.issued()
        name = f"k{next(self._numbers)}"
        new = Key(name, old.workspace, old.subject, predecessor=old, grace=self._dice.choice((0, 0, 300, 1500)))
        await self._clients.ask_all(old)
        rotating = asyncio.create_task(self._rotated(new, old))
        family = [old, new]
        if self._dice.random() < 0.3:
            await self._pause(0.01)
            await self._until_ok(lambda: self._clients.revoke_family(family))
        if await rotating:
            self.show(new, good=False)
            await asyncio.gather(*map(self._clients.ask_all, family))
            await asyncio.sleep(new.grace / 1000)
            await asyncio.gather(*map(self._clients.ask_all, family))
        await self._until_ok(lambda: self._clients.revoke_family(family))
        await self._clients.ask_all(old)
        if new.id:
            await self._clients.ask_all(new)
        await self._pause(0.3)

    async def _rotated(self, new: Key, old: Key) -> bool:
        """Rotate a key until that succeeds or is refused, as the family may be revoked; return whether it succeeded."""
        while (code := await self._clients.rotate(new, old)) not in {OK, "FAILED_PRECONDITION"}:
            await self._pause(0.1)
        if code != OK:
            return False
        new.tokens[FORGED] = _forged(new)
        self.keys.append(new)
        return True

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

    async def _until_ok(self, attempt: Callable[[], Awaitable[str]]) -> None:
        while await attempt() != OK:
            await self._pause(0.1)

    async def _pause(self, seconds: float) -> None:
        """Wait for about this long."""
        await asyncio.sleep(self._dice.uniform(0.0, 2 * seconds))


def _forged(key: Key) -> str:
    """Return a token with the key's id and another secret."""
    kind = KeyType.WORKSPACE if key.subject == EVERYBODY else KeyType.USER
    return Token.mint(kind, KeyId(UUID(key.id))).reveal()

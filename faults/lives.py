"""The lives of keys in a run: keys that are issued, changed in every way, and revoked while they are in use."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from faults.history import BLOCKS, EVERYBODY, FORGED, OK, Limits
from faults.plan import HATS, STAYERS
from faults.queries import Key, Query
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from faults.clients import Clients
    from faults.queries import Line

WORKSPACES = ("north", "south")


class Lives:
    """What happens to keys.

    Attributes:
        keys: Every issued key.
    """

    def __init__(self, clients: Clients, dice: Random) -> None:
        self.keys: list[Key] = []
        self._clients = clients
        self._dice = dice
        self._shown: list[Key] = []
        self._good: list[Key] = []
        self._numbers = count(1)

    async def issued(self, workspace: str = "", subject: str = "", batch: str = "") -> Key:
        """Return a new key, which only the caller uses until it is shown."""
        key = Key(
            f"k{next(self._numbers)}",
            workspace or self._dice.choice(WORKSPACES),
            subject or self._dice.choice((EVERYBODY, *STAYERS)),
            batch=batch,
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

    async def _revoke_batch(self) -> None:
        """Revoke some keys at once that are in use, by their label."""
        workspace, batch = self._dice.choice(WORKSPACES), f"b{next(self._numbers)}"
        keys = [await self.issued(workspace, batch=batch) for _ in range(3)]
        await asyncio.gather(*map(self._clients.ask_all, keys))
        await self._until_ok(lambda: self._clients.revoke_batch(keys))
        await asyncio.gather(*map(self._clients.ask_all, keys))
        for key in keys:
            self.show(key, good=False)
        await self._pause(0.5)

    async def _suspend(self) -> None:
        """Suspend a key that is in use, resume it and suspend it again; then revoke it, or just as it is resumed."""
        key = await self.issued()
        self.show(key, good=False)
        await self._clients.ask_all(key)
        for number, suspended in enumerate((True, False, True), 1):
            codes = [await self._clients.suspend(key, number, suspended=suspended)]
            while codes[-1] != OK:
                await self._pause(0.1)
                codes.append(await self._clients.suspend(key, number, suspended=suspended))
            await self._clients.ask_all(key)
            if len(codes) > 1:
                break  # an attempt may still take effect, so little would be certain
        else:
            if self._dice.random() < 0.5:
                await asyncio.gather(self._clients.suspend(key, 4, suspended=False), self.revoked(key))
        await self.revoked(key)
        await self._clients.ask_all(key)
        await self._pause(0.3)

    async def _limit(self) -> None:
        """Limit a key that is in use to fewer and fewer hats or networks; then lift the limit, and revoke the key."""
        key = await self.issued()
        self.show(key, good=False)
        await self._clients.ask_all(key)
        hats, blocks = self._dice.sample(HATS, len(HATS)), self._dice.sample(BLOCKS, len(BLOCKS))
        by_hats = [Limits(hats=frozenset(hats[:number])) for number in (3, 1, 0)]
        by_networks = [Limits(networks=frozenset(blocks[:number])) for number in (2, 1)]
        for number, wanted in enumerate((*self._dice.choice((by_hats, by_networks)), Limits()), 1):
            expected = key.version
            while (code := await self._clients.limit(key, number, wanted, expected)) != OK:
                if code == "ABORTED":
                    # An attempt succeeded though its response was lost. One more makes the change hold everywhere.
                    expected = key.version + 1
                await self._pause(0.1)
            await self._clients.ask_all(key)
        await self.revoked(key)
        await self._clients.ask_all(key)
        await self._pause(0.3)

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

"""A worker that serves one test after another, since its start takes more CPU time than most tests."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.log import LogFile
from tests.support.service import Service, TokenWatch, serving_by_a_worker
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from skilder_keys.ipc.metrics import Family
    from tests.support.databases import BorrowedDatabase, Databases

    Preparation = Callable[[Service], Awaitable[Any]]


async def apply_small_workspace(service: Service) -> None:
    """Apply the small workspace."""
    await service.operator.apply(small_workspace())


class SharedService:
    """Lends a service with an empty database, or with one that has what a preparation makes and nothing else.

    It starts another one after a test that failed or left something. What was prepared stays from test to test as long
    as none changes a catalog and each wants the same.
    """

    def __init__(self, transport: str, databases: Databases, new_folder: Callable[[], Path]) -> None:
        """Lend services with this transport on databases of `databases`, with folders from `new_folder`."""
        self._transport = transport
        self._databases = databases
        self._new_folder = new_folder
        self._stack = AsyncExitStack()
        self._served: tuple[Service, BorrowedDatabase] | None = None
        self._prepared: tuple[Preparation | None, Any] = None, None

    @asynccontextmanager
    async def lent(self, prepare: Preparation | None = None) -> AsyncIterator[tuple[Service, BorrowedDatabase, Any]]:
        """Lend the service, with new clients and a new log, its database, and what `prepare` has returned."""
        served, database = await self._take(prepare)
        assert isinstance(served.log, LogFile)
        log = served.log.from_now()
        collect = await _counted_from_now(served.collect)
        is_clean = False
        try:
            async with AsyncExitStack() as clients:
                lent = Service(served.address, served.database_url, log, TokenWatch(), clients, collect)
                yield await clients.enter_async_context(lent), database, self._prepared[1]
            assert served.runs(), log.text()
            assert log.faults() == [], log.text()
            is_clean = await database.empty(serves=True, keeps=True)
        finally:
            if is_clean:
                self._served = served, database
            else:
                await self._stack.aclose()

    async def _take(self, prepare: Preparation | None) -> tuple[Service, BorrowedDatabase]:
        served, database = self._served or await self._start()
        self._served = None
        if database.keeps and prepare is not self._prepared[0] and not await database.empty(serves=True):
            await self._stack.aclose()
            served, database = await self._start()
        if prepare is None:
            self._prepared = None, None
        elif not database.keeps:
            async with AsyncExitStack() as clients:
                made = await prepare(await clients.enter_async_context(replace(served, stack=clients)))
            self._prepared = prepare, made
            await database.keep()
        return served, database

    async def close(self) -> None:
        """End the service, if there is one, and check that it ends well."""
        self._served = None
        await self._stack.aclose()

    async def _start(self) -> tuple[Service, BorrowedDatabase]:
        database = await self._databases.take()
        self._stack.push_async_callback(self._databases.drop, database)
        serving = serving_by_a_worker(database.url, self._new_folder(), transport=self._transport)
        return await self._stack.enter_async_context(serving), database


async def _counted_from_now(collect: Callable[[], Awaitable[list[Family]]]) -> Callable[[], Awaitable[list[Family]]]:
    """Return what collects the metrics with each counter as if it had been 0 now."""
    counters = ("_total", "_count", "_sum", "_bucket")

    def place(name: str, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
        return name, frozenset(labels.items())

    first = await collect()

    async def counted() -> list[Family]:
        before = {
            place(name, labels): value
            for family in first
            for name, labels, value in family["samples"]
            if name.endswith(counters)
        }
        families = await collect()
        for family in families:
            family["samples"] = [
                (name, labels, value - before.get(place(name, labels), 0)) for name, labels, value in family["samples"]
            ]
        return families

    return counted

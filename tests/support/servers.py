"""What the tests share on each Postgres, made on first use."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.databases import Databases
from tests.support.postgres import template_database
from tests.support.service import TRANSPORTS
from tests.support.shared_service import SharedService

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.databases import BorrowedDatabase
    from tests.support.service import Service
    from tests.support.shared_service import Preparation


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What one test has until it ends.

    Attributes:
        database: A database.
        service: A service on it, where a shared one is enough.
        prepared: What has made the rows in it; None if there are none.
        made: What that returned.
    """

    database: BorrowedDatabase
    service: Service | None = None
    prepared: Preparation | None = None
    made: Any = None


@dataclass(frozen=True, slots=True)
class Server:
    """One Postgres: a migrated database to clone, its clones, and a service for each transport."""

    template: str
    databases: Databases
    services: dict[str, SharedService]


class Servers:
    """What the tests share on each Postgres that they use."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        """Use `new_folder` to make folders for services."""
        self._new_folder = new_folder
        self._known: dict[str, Server] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    async def on(self, url: str) -> Server:
        """Return what is shared on a Postgres, given its URL."""
        if url not in self._known:
            stack = self._stacks[url] = AsyncExitStack()
            template = await stack.enter_async_context(template_database(url))
            databases = Databases(url, template)
            stack.push_async_callback(databases.close)
            services = {each: SharedService(each, databases, self._new_folder) for each in TRANSPORTS}
            for service in services.values():
                stack.push_async_callback(service.close)
            self._known[url] = Server(template, databases, services)
        return self._known[url]

    async def leave(self, url: str) -> None:
        """Remove what is shared on a Postgres. Call this before the Postgres stops."""
        self._known.pop(url, None)
        if stack := self._stacks.pop(url, None):
            await stack.aclose()

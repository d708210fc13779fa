"""What the tests share on each Postgres, made when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.databases import Databases
from tests.support.postgres import template_database
from tests.support.shared_service import SharedService

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from tests.support.service import Service


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What a test has for itself until it ends: a database and, perhaps, a service that serves it."""

    database_url: str
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """One Postgres: a migrated database to clone, its clones, and a service."""

    template: str
    databases: Databases
    service: SharedService


class Servers:
    """Every Postgres that a test has asked for."""

    def __init__(self, stack: AsyncExitStack, new_folder: Callable[[], Path]) -> None:
        """Take what ends all of it, and what makes a folder."""
        self._stack = stack
        self._new_folder = new_folder
        self._known: dict[str, Server] = {}

    async def on(self, url: str) -> Server:
        """Return what is shared on a Postgres, given its URL."""
        if url not in self._known:
            template = await self._stack.enter_async_context(template_database(url))
            databases = Databases(url, template)
            self._stack.push_async_callback(databases.close)
            service = SharedService(databases, self._new_folder)
            self._stack.push_async_callback(service.close)
            self._known[url] = Server(template, databases, service)
        return self._known[url]

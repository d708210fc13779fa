"""How a test makes a database's history diverge, and goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.stock import StockServer


async def copy_folder(server: StockServer, source: str, target: str) -> None:
    """Stop a server, replace one of its folders by a copy of another, and start it."""

    def copy() -> None:
        server.stop()
        place = server.folder / target
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(server.folder / source, place, symlinks=True)
        owner = (server.folder / source).stat()
        for path in (place, *place.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        server.start()

    await asyncio.to_thread(copy)


async def until_made(change: Callable[[], Awaitable[Any]]) -> None:
    """Retry a change until it succeeds: right after a restart, old connections may still be in use."""
    async with asyncio.timeout(60):
        while True:
            with suppress(UnavailableError):
                await change()
                return
            await asyncio.sleep(0.01)

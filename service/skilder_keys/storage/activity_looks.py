"""Look at many minutes, hours or days in few statements, none of which takes long, however many facts they have."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from skilder_keys.storage.database import Connection

    Read = Callable[[Sequence[int]], Awaitable[list[asyncpg.Record]]]

PAGE_SECONDS = 1.0
"""How long a page is searched for. Then it ends with what was found, so that a call is short however little matches."""
LOOK_SECONDS = 0.5
"""How long a look at several places may take. A longer one is given up for one at fewer places."""

_GROWTH = 4
_LARGEST = 1024
_SHRINK = 16


class Looks:
    """Looks at the first of some places, and learns at how many to look at once."""

    def __init__(self, connection: Connection, statement_timeout: str) -> None:
        """Make it with `begin`."""
        self._connection = connection
        self._statement_timeout = statement_timeout
        self._end = time.monotonic() + PAGE_SECONDS
        # The newest day is most often enough, hours are those of a day, and there are few denials in a minute.
        self._sizes: defaultdict[str, int] = defaultdict(lambda: _GROWTH, days=1, hours=24, unproven=1440)

    @classmethod
    async def begin(cls, connection: Connection) -> Looks:
        """Begin the time of a page. The connection must be in a transaction."""
        return cls(connection, await connection.fetchval("SELECT current_setting('statement_timeout')"))

    def over(self) -> bool:
        """Return whether the page has to end."""
        return time.monotonic() > self._end

    async def look(
        self, kind: str, places: Sequence[int], read: Read, largest: int = _LARGEST
    ) -> tuple[list[asyncpg.Record], int]:
        """Read the first places; return what is there, and how many places were read: at least one.

        Args:
            kind: Places of one kind have about as many facts.
            places: The numbers of minutes, hours or days, at least one.
            read: Reads some of them in one statement.
            largest: At how many to look at once, at most.
        """
        while True:
            chunk = places[: self._sizes[kind]]
            limit = f"{int(LOOK_SECONDS * 1000)}ms" if len(chunk) > 1 else self._statement_timeout
            await self._connection.execute(f"SAVEPOINT look; SET LOCAL statement_timeout = '{limit}'")
            begun = time.monotonic()
            try:
                rows = await read(chunk)
            except asyncpg.QueryCanceledError:
                if len(chunk) == 1:
                    raise
                await self._connection.execute("ROLLBACK TO look")
                self._sizes[kind] = max(1, len(chunk) // _SHRINK)
                continue
            if time.monotonic() - begun < LOOK_SECONDS / _GROWTH:
                self._sizes[kind] = min(len(chunk) * _GROWTH, largest)
            return rows, len(chunk)

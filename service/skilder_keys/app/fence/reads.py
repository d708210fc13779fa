"""Reads of the database that are compared with the state that memory has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from skilder_keys.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.revision import Revision
    from skilder_keys.storage.database import Connection, Database

_READS = 2


class _Read(Protocol):
    @property
    def revision(self) -> Revision: ...
    @property
    def server(self) -> str: ...


Read = TypeVar("Read", bound=_Read)


class FencedReads:
    """Reads the database, and never accepts a state that is older than the one of memory when the query was sent.

    Attributes:
        on_doubt: Called when a read has seen another server, or an older state: it drops everything from memory.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self.on_doubt: Callable[[], object] | None = None

    async def read(self, query: Callable[[Connection], Awaitable[Read]]) -> Read:
        """Return the result of a query, which is one statement and returns the revision and the server with it.

        Raises:
            UnavailableError: The database does not respond, or lacks changes that another server has.
        """
        for _ in range(_READS):
            lease = self._lease
            expected, server = lease.revision, lease.server
            async with self._database.connection() as connection:
                read = await query(connection)
            if server in ("", read.server) and read.revision.epoch >= expected.epoch:
                return read
            # This is another server than the fence's, e.g. a former primary, or a database that was restored to an
            # older state. It is not known here which of the two is right. So everything is dropped, and both the fence
            # and this query ask again.
            leased = lease.valid()
            lease.doubt()
            if self.on_doubt is not None:
                self.on_doubt()
            accepted = not leased and read.revision.epoch >= expected.epoch
            if accepted:
                # Without a lease nothing is served from memory, and no newer state is known, so this one can be used.
                lease.revision, lease.server = read.revision, read.server
            await self._database.expire()
            if accepted:
                return read
        raise UnavailableError("The database lacks changes that another server has: try again.")

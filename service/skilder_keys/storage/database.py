"""The database: a bounded pool of connections, transactions, and the translation of the driver's errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import asyncpg

from skilder_keys.domain.errors import BusyError, UnavailableError
from skilder_keys.storage.sessions import Connector, DatabaseFaultError, Session, transaction
from skilder_keys.storage.url import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from skilder_keys.storage import sessions

    Connection = sessions.Connection
    Pool = asyncpg.Pool[asyncpg.Record]

_OUTAGES = (
    DatabaseFaultError,
    OSError,  # refused, reset, timed out, no such socket
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection was lost, or the pool is closing
    asyncpg.exceptions.InternalClientError,  # the connection was lost in the middle of a message
    asyncpg.exceptions.OperatorInterventionError,  # shut down, starting up, statement timeout
    asyncpg.exceptions.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,  # lock timeout
    asyncpg.exceptions.TransactionRollbackError,  # deadlock, serialization
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # a standby, after a failover
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.InvalidCatalogNameError,  # no such database
    asyncpg.exceptions.InsufficientPrivilegeError,  # somebody revoked a privilege of our role
    asyncpg.exceptions.InvalidCachedStatementError,  # two migrations in a row: the driver repeats a statement only once
)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How to use the database.

    Attributes:
        url: A PostgreSQL connection URI. It may contain a password, so it is never logged.
        schema: The schema of the tables.
        pool_size: The most connections that are open at once.
        statement_timeout: Seconds after which Postgres ends a statement.
        lock_timeout: Seconds after which Postgres ends the wait for a lock.
        acquire_timeout: Seconds that a call waits for a free connection.
    """

    url: str
    schema: str = DEFAULT_SCHEMA
    pool_size: int = 10
    statement_timeout: float = 5.0
    lock_timeout: float = 2.0
    acquire_timeout: float = 2.0

    def __repr__(self) -> str:
        """Return a text without the URL, which may contain a password."""
        return f"<DatabaseOptions pool_size={self.pool_size}>"


class Database:
    """A bounded pool of connections. Make it with `open`, close it with `close`.

    Every method raises UnavailableError if the database cannot be reached or does not respond in time. Broken
    connections are replaced automatically, so no restart is needed when the database is back.

    Attributes:
        waiting: The number of calls that wait for a connection.
        refused: The number of calls that were refused since all connections were in use for too long.
    """

    def __init__(self, pool: Pool, connector: Connector, options: DatabaseOptions) -> None:
        self._pool = pool
        self._connector = connector
        self._options = options
        self._probe: Session | None = None
        self.waiting = 0
        self.refused = 0

    @classmethod
    async def open(cls, options: DatabaseOptions) -> Self:
        """Connect.

        Raises:
            DatabaseUrlError: The URL cannot be used.
            UnavailableError: The database cannot be reached, or cannot be used.
        """
        connector = Connector(options.url, options.schema)
        settings = _limits(options.statement_timeout, options.lock_timeout)
        # Postgres ends a statement earlier. This limit is for a Postgres that is frozen or cannot be reached.
        command_timeout = options.statement_timeout + 1

        async def connect(*_: object, **__: object) -> Session:
            return await connector.connect(
                "skilder-keys", options.acquire_timeout, command_timeout=command_timeout, settings=settings
            )

        with translated_errors():
            pool = await asyncpg.create_pool(
                min_size=0, max_size=options.pool_size, connect=connect, connection_class=Session
            )
            database = cls(pool, connector, options)
            # A database may have to wake up, so the first connection gets the time that the URL allows, if it is more.
            database._probe = await database._connect(
                "skilder-keys health", max(options.acquire_timeout, connector.total_connect_timeout)
            )
        return database

    async def close(self) -> None:
        """Wait for running queries, at most 5 s, and close every connection."""
        if self._probe is not None:
            self._probe.terminate()
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection, outside of any transaction.

        Raises:
            BusyError: All connections were in use for too long.
        """
        with translated_errors():
            self.waiting += 1
            try:
                connection = await self._pool.acquire(timeout=self._options.acquire_timeout)
            except TimeoutError:
                if self._pool.get_idle_size() or self._pool.get_size() < self._pool.get_max_size():
                    raise
                self.refused += 1
                raise BusyError from None
            finally:
                self.waiting -= 1
            try:
                yield connection
            except BaseException:
                await self._give_back(connection)
                raise
            await self._pool.release(connection)

    async def _give_back(self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
        """Give back a connection whose statement may have been cut off. Wait until Postgres has ended the statement.

        If it does not, the driver closes the connection and raises an error. It is no news if the caller was cancelled
        while it waited; but asyncio would log it, so take it.
        """
        giving = asyncio.ensure_future(self._pool.release(connection))
        giving.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(giving)

    @asynccontextmanager
    async def dedicated(self, name: str, time_limit: float) -> AsyncIterator[Connection]:
        """Open a connection outside of the pool, which load on the pool cannot delay, and close it afterwards.

        It stays open for long, so its plans use indexes: a plan that is made for a small table is kept while it grows.

        Args:
            name: Its application_name in Postgres.
            time_limit: The most seconds for connecting, and for each statement.
        """
        with translated_errors():
            connection = await self._connect(name, time_limit, {"enable_seqscan": "off"})
            try:
                yield connection
            finally:
                await _closed(connection, time_limit)

    @property
    def pool_use(self) -> dict[str, int]:
        """The number of connections of the pool that are `used`, `idle`, and not opened yet (`closed`)."""
        opened, idle = self._pool.get_size(), self._pool.get_idle_size()
        return {"used": opened - idle, "idle": idle, "closed": self._pool.get_max_size() - opened}

    async def expire(self) -> None:
        """Replace every connection of the pool by a new one before it is lent again."""
        await self._pool.expire_connections()

    async def ping(self) -> None:
        """Check that the database responds. This uses its own connection, so a busy pool does not matter.

        Only one caller may use it at a time.
        """
        with translated_errors():
            try:
                if self._probe is None or self._probe.is_closed():
                    self._probe = await self._connect("skilder-keys health", self._options.acquire_timeout)
                await self._probe.fetchval("SELECT 1")
            except BaseException:
                if self._probe is not None:
                    self._probe.terminate()
                    self._probe = None
                raise

    async def _connect(self, name: str, time_limit: float, settings: Mapping[str, str] | None = None) -> Session:
        # Postgres enforces the limit too. A backend that waits for a lock does not notice that its client is gone, and
        # each attempt would leave one more backend behind, until Postgres had none left.
        settings = {**_limits(time_limit, time_limit), **(settings or {})}
        return await self._connector.connect(name, time_limit, command_timeout=time_limit, settings=settings)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a read-only transaction, whose statements all see the same state."""
        async with self.connection() as connection, transaction(connection, "repeatable_read", readonly=True):
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a READ COMMITTED transaction, which any error rolls back."""
        async with self.connection() as connection, transaction(connection):
            yield connection

    @asynccontextmanager
    async def change(self, heads: list[str]) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction as `transaction` does, and add the heads of the audit trail to a list.

        After the commit the list has, for each workspace with new audit events, its last one: `WORKSPACE:NUMBER:HASH`.
        """
        async with self.connection() as connection:
            reported: list[str] = connection.audit_heads  # type: ignore[union-attr]  # all of ours are Sessions
            reported.clear()
            async with transaction(connection):
                yield connection
            heads.extend(reported)


async def _closed(connection: asyncpg.Connection[asyncpg.Record], time_limit: float) -> None:
    """Close a connection, and make Postgres end what it still does for it.

    A commit that waits for a standby does not notice that its client is gone, and no statement timeout ends it: only a
    cancellation does. Without it, each attempt would leave one more backend behind.
    """
    try:
        async with asyncio.timeout(time_limit):
            await connection.close()
    except (TimeoutError, *_OUTAGES):
        connection.terminate()


class translated_errors:  # noqa: N801 - a context manager reads as a verb
    """Raises UnavailableError for the driver's errors that mean an outage. Other errors are bugs and pass unchanged."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Translate the error, if there is one."""
        # A ValueError of the driver is a wrong argument, so a bug of ours.
        if isinstance(error, _OUTAGES) and not isinstance(error, ValueError):
            # The driver's message can name hosts and users, so it is logged, but not sent to the caller.
            raise UnavailableError("The database does not answer: try again.") from error


def _limits(statement_timeout: float, lock_timeout: float) -> dict[str, str]:
    return {
        "statement_timeout": _milliseconds(statement_timeout),
        "lock_timeout": _milliseconds(lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(2 * statement_timeout),
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))

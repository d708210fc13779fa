"""The connection to Postgres: a bounded pool, transactions, and driver errors translated once."""

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
    from collections.abc import AsyncIterator

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
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,  # a lock that could not be had in time
    asyncpg.exceptions.TransactionRollbackError,  # deadlock, serialization
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # a standby, after a failover
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.InvalidCatalogNameError,  # no such database
    asyncpg.exceptions.InsufficientPrivilegeError,  # taken from our role
    asyncpg.exceptions.InvalidCachedStatementError,  # one migration after another: the driver tries again only once
)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How to use the database.

    Attributes:
        url: A PostgreSQL connection URI. It may hold a password: never logged.
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
        """Leaves the URL out: it may hold a password."""
        return f"<DatabaseOptions pool_size={self.pool_size}>"


class Database:
    """A bounded pool of connections. Make it with `open`, end it with `close`.

    Every method raises UnavailableError where the database cannot be reached or does not answer in time. Connections
    that break are replaced by themselves, so a database that comes back is used again without a restart.
    """

    def __init__(self, pool: Pool, connector: Connector, options: DatabaseOptions) -> None:
        self._pool = pool
        self._connector = connector
        self._options = options
        self._probe: Session | None = None

    @classmethod
    async def open(cls, options: DatabaseOptions) -> Self:
        """Connect.

        Raises:
            DatabaseUrlError: The URL cannot be used.
            UnavailableError: The database cannot be reached, or is none that can be used.
        """
        connector = Connector(options.url, options.schema)
        settings = _limits(options.statement_timeout, options.lock_timeout)
        # Postgres ends a statement before this; it is for a Postgres that is frozen, or out of reach.
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
            # Where the URL grants more time, the first connection has it: a database may have to wake up.
            database._probe = await database._connect(
                "skilder-keys health", max(options.acquire_timeout, connector.patience)
            )
        return database

    async def close(self) -> None:
        """Waits for running queries, at most 5 s, and closes every connection."""
        if self._probe is not None:
            self._probe.terminate()
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lends a connection outside of any transaction.

        Raises:
            BusyError: All were in use for too long.
        """
        with translated_errors():
            try:
                connection = await self._pool.acquire(timeout=self._options.acquire_timeout)
            except TimeoutError:
                if self._pool.get_idle_size() or self._pool.get_size() < self._pool.get_max_size():
                    raise
                raise BusyError from None
            try:
                yield connection
            finally:
                await self._pool.release(connection)

    @asynccontextmanager
    async def dedicated(self, name: str, time_limit: float) -> AsyncIterator[Connection]:
        """Lends a connection outside of the pool, which no load on the pool can hold up, and closes it afterwards.

        Args:
            name: What Postgres calls it.
            time_limit: Seconds that connecting may take, and each statement.
        """
        with translated_errors():
            connection = await self._connect(name, time_limit)
            try:
                yield connection
            finally:
                await _closed(connection, time_limit)

    async def expire(self) -> None:
        """Have every connection of the pool replaced by a new one before it is lent again."""
        await self._pool.expire_connections()

    async def ping(self) -> None:
        """Asks the database for nothing, to see that it answers: on a connection of its own, however busy the pool is.

        Not for two at a time.
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

    async def _connect(self, name: str, time_limit: float) -> Session:
        # Postgres keeps to the limit too: a backend that waits for a lock does not see that nobody waits for it any
        # more, and one more with each attempt would in the end be all that it has.
        limits = _limits(time_limit, time_limit)
        return await self._connector.connect(name, time_limit, command_timeout=time_limit, settings=limits)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements all see the database at one moment, and change nothing."""
        async with self.connection() as connection, transaction(connection, "repeatable_read", readonly=True):
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a READ COMMITTED transaction, which any error rolls back."""
        async with self.connection() as connection, transaction(connection):
            yield connection


async def _closed(connection: asyncpg.Connection[asyncpg.Record], time_limit: float) -> None:
    """Close a connection, and have Postgres end what it still does for it.

    A commit that waits for a standby sees neither that its client is gone nor a statement timeout: only being cancelled
    ends it. Without that, each attempt would leave one more backend behind.
    """
    try:
        async with asyncio.timeout(time_limit):
            await connection.close()
    except (TimeoutError, *_OUTAGES):
        connection.terminate()


class translated_errors:  # noqa: N801 - a context manager reads as a verb
    """Turns what the driver raises in an outage into UnavailableError. Faults of ours pass as they are."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Translates."""
        # A ValueError of the driver is a wrong argument: a fault of ours.
        if isinstance(error, _OUTAGES) and not isinstance(error, ValueError):
            # The driver's words can name hosts and users, so they stay in the log and out of the answer.
            raise UnavailableError("The database does not answer: try again.") from error


def _limits(statement_timeout: float, lock_timeout: float) -> dict[str, str]:
    return {
        "statement_timeout": _milliseconds(statement_timeout),
        "lock_timeout": _milliseconds(lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(2 * statement_timeout),
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))

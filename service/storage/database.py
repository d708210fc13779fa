"""The connection to Postgres: a bounded pool, transactions, and driver errors translated once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import asyncpg

from service.domain.errors import BusyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

_OUTAGES = (
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
)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How to use the database.

    Attributes:
        url: A PostgreSQL connection URI. It may hold a password: never logged.
        pool_size: The most connections that are open at once.
        statement_timeout: Seconds after which Postgres ends a statement.
        lock_timeout: Seconds after which Postgres ends the wait for a lock.
        acquire_timeout: Seconds that a call waits for a free connection.
    """

    url: str
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

    def __init__(self, pool: Pool, options: DatabaseOptions) -> None:
        self._pool = pool
        self._options = options
        self._probe: asyncpg.Connection[asyncpg.Record] | None = None

    @classmethod
    async def open(cls, options: DatabaseOptions) -> Self:
        """Connects.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        with translated_errors():
            pool = await asyncpg.create_pool(
                options.url,
                min_size=0,
                max_size=options.pool_size,
                timeout=options.acquire_timeout,
                # Postgres ends a statement before this; it is for a Postgres that is frozen, or out of reach.
                command_timeout=options.statement_timeout + 1,
                server_settings=_session_settings(options),
                connection_class=_Connection,
            )
        database = cls(pool, options)
        await database.ping()
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
                connection.terminate()

    async def ping(self) -> None:
        """Asks the database for nothing, to see that it answers: on a connection of its own, however busy the pool is.

        Not for two at a time.
        """
        with translated_errors():
            try:
                if self._probe is None or self._probe.is_closed():
                    self._probe = await self._connect("skilder-keys health", self._options.acquire_timeout)
                await self._probe.execute("SELECT")
            except BaseException:
                if self._probe is not None:
                    self._probe.terminate()
                    self._probe = None
                raise

    async def _connect(self, name: str, time_limit: float) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            self._options.url,
            timeout=time_limit,
            command_timeout=time_limit,
            # Postgres keeps to it too: a backend that waits for a lock does not see that nobody waits for it any more,
            # and one more with each attempt would in the end be all that it has.
            server_settings={"application_name": name, "statement_timeout": _milliseconds(time_limit)},
        )

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """Lends a connection whose statements all see the database at one moment, and change nothing."""
        async with (
            self.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lends a connection inside a READ COMMITTED transaction, which any error rolls back."""
        async with self.connection() as connection, connection.transaction():
            yield connection


class _Connection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        """Answers none: nothing here changes a session, so a returned connection needs no round trip to be as new."""
        return ""


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


def _session_settings(options: DatabaseOptions) -> dict[str, str]:
    return {
        "application_name": "skilder-keys",
        "statement_timeout": _milliseconds(options.statement_timeout),
        "lock_timeout": _milliseconds(options.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(2 * options.statement_timeout),
        "timezone": "UTC",
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))

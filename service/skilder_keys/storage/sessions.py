"""Connections to Postgres, and the settings that every session has.

Nothing relies on the defaults of the database, of the role or of the server: every setting that a promise depends on is
set here. On a connection to Postgres itself the settings are applied once, when it is made. A connection to a pooler
may get another session for each transaction. There every statement runs in a transaction, which first applies the
settings.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from skilder_keys.storage.url import DEFAULT_SCHEMA, DatabaseUrl, place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]

_SETTINGS: Mapping[str, str] = {
    # Each transaction sets these itself; statements outside of a transaction use the defaults.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # A policy that hides rows from us would make keys unknown. With "off", the statement fails instead.
    "row_security": "off",
    # The text form of values, in our statements and in the triggers that they fire.
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    # Without statistics, Postgres would spend 20 ms on compiling a plan that takes 1 ms.
    "jit": "off",
    "plan_cache_mode": "auto",
    "exit_on_error": "off",
    # The trigger that writes audit events reports the head of their chain: see `Session.audit_heads`.
    "client_min_messages": "notice",
    "skilder_keys.report_heads": "on",
    "idle_session_timeout": "0",
}
_SET = """
    SET {scope} search_path = {search_path};
    SELECT {settings},
           -- The only stronger value is kept: whoever set it wants changes to be applied on the standbys, too.
           set_config('synchronous_commit',
                      CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
                      {local}),
           -- Set only if needed, because only a superuser may. With other values, triggers and foreign keys do nothing.
           CASE WHEN current_setting('session_replication_role') <> 'origin'
                THEN set_config('session_replication_role', 'origin', {local}) END,
           -- Since Postgres 17.
           CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
                THEN set_config('transaction_timeout', '0', {local}) END
"""

_AUDIT_HEAD = "SKH01"
"""The SQLSTATE of the notice with the head of the audit trail."""
_STANDBY = "is a standby, which may lack the last changes: the service needs the primary"
_FAULTS = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.exceptions.InternalClientError)


class DatabaseFaultError(Exception):
    """The database cannot be used. The message, for people, names hosts and ports, but never a password."""


class Session(asyncpg.Connection):
    """A connection whose session has the settings of this module.

    Attributes:
        guard: The SQL that begins each transaction if there is a pooler, which may choose another session for it; empty
            without a pooler.
        audit_heads: What commits have reported: the last audit event of each workspace that they have written to, as
            `WORKSPACE:NUMBER:HASH`. Whoever needs them empties the list before the transaction.
    """

    guard = ""
    audit_heads: list[str]

    def get_reset_query(self) -> str:
        """Return no query: nothing changes a session, so a returned connection needs no reset."""
        return ""

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        # At once, unlike the driver's listeners, so that the head is there when the commit returns.
        if fields.get("C") == _AUDIT_HEAD:
            self.audit_heads.append(fields["M"])
        else:
            super()._process_log_message(fields, last_query)  # type: ignore[misc]

    # Every statement that takes arguments or returns rows passes one of these private methods of the driver.

    async def _get_statement(self, *given: Any, use_cache: bool = True, **options: Any) -> Any:  # noqa: ANN401
        # After a migration, the driver prepares an invalid statement again, but inside a transaction that is too late.
        # So a transaction prepares its own statements, which stay valid: they lock their tables against migrations.
        return await super()._get_statement(*given, use_cache=use_cache and not self.is_in_transaction(), **options)  # type: ignore[misc]

    async def _execute(self, *given: Any, **options: Any) -> Any:  # noqa: ANN401
        if not self.guard or self.is_in_transaction():
            return await super()._execute(*given, **options)  # type: ignore[misc]
        async with transaction(self):
            return await super()._execute(*given, **options)  # type: ignore[misc]

    async def _executemany(self, *given: Any, **options: Any) -> Any:  # noqa: ANN401
        if not self.guard or self.is_in_transaction():
            return await super()._executemany(*given, **options)  # type: ignore[misc]
        async with transaction(self):
            return await super()._executemany(*given, **options)  # type: ignore[misc]


@asynccontextmanager
async def transaction(
    connection: Connection,
    isolation: Literal["read_committed", "repeatable_read"] = "read_committed",
    *,
    readonly: bool = False,
) -> AsyncIterator[None]:
    """Run a transaction, which any error rolls back."""
    guard = connection.guard  # type: ignore[union-attr]  # all of ours are Sessions
    async with connection.transaction(isolation=isolation, readonly=readonly and not guard):
        if guard:
            try:
                await connection.execute(guard + ("; SET LOCAL transaction_read_only = on" if readonly else ""))
            except (asyncpg.FeatureNotSupportedError, asyncpg.ReadOnlySQLTransactionError):
                raise DatabaseFaultError(_STANDBY) from None
        yield


class Connector:
    """Makes the connections of a process.

    Args:
        url: The connection URI.
        schema: The schema of our tables.
        settings: More settings of each session, by name.
    """

    def __init__(self, url: str, schema: str = DEFAULT_SCHEMA, settings: Mapping[str, str] | None = None) -> None:
        self._url = DatabaseUrl.parse(url)
        self._hosts: list[tuple[str, int] | None] = [*self._url.hosts] or [None]
        # A table in another schema, or a temporary one, must not be used instead of ours. Postgres searches pg_catalog
        # first anyway.
        self._search_path = f'"{schema}", pg_temp'
        self._settings = {**_SETTINGS, **(settings or {})}

    @property
    def total_connect_timeout(self) -> float:
        """The seconds that the URI allows for connecting, for all hosts together; 0 if it sets no limit."""
        return (self._url.connect_timeout or 0) * len(self._hosts)

    async def connect(
        self,
        name: str,
        time_limit: float,
        *,
        command_timeout: float | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Session:
        """Connect to the primary, whichever host it is.

        Args:
            name: The application_name in Postgres. One in the URI replaces "skilder-keys" in it.
            time_limit: Seconds for connecting. Each host gets a share, so that a silent host does not use up all.
            command_timeout: Seconds after which the driver gives up a statement.
            settings: More settings of this session.

        Raises:
            DatabaseFaultError: No host is a primary that can be used.
        """
        faults = []
        clock = asyncio.get_running_loop().time
        end = clock() + time_limit
        hosts = tuple(self._hosts)
        for number, host in enumerate(hosts):
            share = (end - clock()) / (len(hosts) - number)
            try:
                async with asyncio.timeout(min(share, self._url.connect_timeout or share)):
                    session = await self._open(host, name, command_timeout)
                    await self._prepare(session, {**self._settings, **(settings or {})})
            except TimeoutError:
                faults.append(f"{_place(host)}: no answer in time")
            except (DatabaseFaultError, *_FAULTS) as error:
                faults.append(f"{_place(host)}: {' '.join(str(error).split()) or type(error).__name__}")
            else:
                # The next connection tries this host first: the others may be standbys, or silent.
                self._hosts.sort(key=lambda each: each != host)
                return session
        raise DatabaseFaultError("; ".join(faults))

    async def _open(self, host: tuple[str, int] | None, name: str, command_timeout: float | None) -> Session:
        url = self._url
        application = name.replace("skilder-keys", url.application_name, 1) if url.application_name else name
        settings = {"application_name": application} | ({"options": url.options} if url.options else {})
        session: Session = await asyncpg.connect(
            url.tls,
            host=host[0] if host else None,
            port=host[1] if host else None,
            user=url.user,
            password=url.password,
            database=url.database,
            passfile=url.passfile,
            krbsrvname=url.krbsrvname,
            ssl=ssl.create_default_context() if url.system_roots else None,
            target_session_attrs=SessionAttribute.any,  # not that of the environment: `_prepare` requires the primary
            server_settings=settings,
            command_timeout=command_timeout,
            connection_class=Session,
        )
        session.audit_heads = []
        return session

    async def _prepare(self, session: Session, settings: Mapping[str, str]) -> None:
        """Apply the settings to a session, and check that it can be used."""
        try:
            # A pooler reports a process id that it made up. This is a simple query, because old poolers lose prepared
            # statements outside of transactions.
            same_process = await session.execute(
                f"SELECT WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {session.get_server_pid()}"
            )
            if same_process == "SELECT 0":
                session.guard = f"SET LOCAL transaction_read_only = off; {self._set(settings, local=True)}"
            else:
                await session.execute(self._set(settings, local=False))
            (server,) = await session.fetch(
                "SELECT pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding"
            )
        except asyncpg.InsufficientPrivilegeError as error:
            session.terminate()
            raise DatabaseFaultError(
                f"{error}: ALTER DATABASE ... SET, ALTER ROLE ... SET or postgresql.conf gives it another value;"
                " remove that with RESET there"
            ) from None
        except BaseException:
            session.terminate()
            raise
        if server["standby"]:
            session.terminate()
            raise DatabaseFaultError(_STANDBY)
        if server["encoding"] != "UTF8":
            session.terminate()
            raise DatabaseFaultError(
                f"the database's encoding is {server['encoding']}, and has to be UTF8: create one with"
                " CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )

    def _set(self, settings: Mapping[str, str], *, local: bool) -> str:
        """Return the statements that apply settings to the session or, with `local`, only to the open transaction."""
        calls = (f"set_config('{name}', '{value}', {local})" for name, value in settings.items())
        scope = "LOCAL" if local else "SESSION"
        return _SET.format(scope=scope, search_path=self._search_path, settings=", ".join(calls), local=local)


def _place(host: tuple[str, int] | None) -> str:
    return place(*host) if host else "the local Postgres"

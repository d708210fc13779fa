"""One worker: configuration -> database -> app -> server, in one straight line."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import grpc
from prometheus_client import CollectorRegistry

from service import connections
from service.address import ListenError
from service.app.authorize import Authorizer
from service.app.cache import KeyCache
from service.app.fence import Lease, Reader, Writer
from service.app.keys import Keys
from service.app.proof import Prover
from service.app.tool_sets import ToolSets
from service.app.usage import Usage
from service.app.workspaces import Workspaces
from service.callers_file import load_callers, local_operator
from service.domain.access import Ability
from service.domain.hashing import HashParameters, Recogniser, SecretHasher
from service.domain.paging import PageTokens
from service.figures import Figures, writer_waits
from service.offload import Offload
from service.rpc import authorization_service, catalog_service, key_service
from service.rpc.callers import Callers
from service.rpc.gate import Gate
from service.rpc.grpcio import Methods
from service.rpc.health import HEALTH_SERVICE, Health
from service.rpc.public import PublicLimits, PublicMethods
from service.rpc.reflection import add_reflection
from service.rpc.time_limit import TimeLimit
from service.storage import signing_keys
from service.storage.database import Database, DatabaseOptions
from service.storage.migrations import require_schema
from service.storage.privileges import require_privileges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from structlog.typing import FilteringBoundLogger

    from service.config import Settings
    from service.rpc.callers import KnownCaller
    from service.rpc.gate import AtOnce, Serve

_AGE_GRACE_SECONDS = 5.0
_METADATA_BYTES_BEHIND = 2**16


class Front(Protocol):
    """What calls come in by, where it is not grpcio's server; it passes those on to that which it does not answer.

    Attributes:
        socket: Where it passes them on to: a Unix socket that nobody else can reach.
    """

    socket: Path

    def answer(self, methods: Mapping[str, Serve], at_once: Mapping[str, AtOnce], settings: Settings) -> None:
        """Takes the methods by their paths, to answer those that it likes to, and what memory may be enough for."""

    async def open(self) -> None:
        """Lets calls in; returns when they come."""

    async def drain(self, seconds: float) -> None:
        """Has clients go elsewhere; returns when no call is left, or after so many seconds."""

    async def metrics(self) -> list[Metric]:
        """Answers what it counts itself."""


def _known_callers(settings: Settings) -> list[KnownCaller]:
    known = load_callers(settings.callers) if settings.callers else []
    if settings.local_operator:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        known.append(local_operator(settings.operator_token_file))
    return known


async def start(
    settings: Settings,
    database_url: str,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
    registry: CollectorRegistry | None = None,
    *,
    reuse_port: bool = False,
    front: Front | None = None,
    report: Callable[[bool], None] = lambda _: None,
) -> str:
    """Starts a server and answers the address it serves on, HOST:PORT.

    The exit stack ends it: it drains, writes what is pending, and closes the database.

    Args:
        settings: The settings.
        database_url: The database.
        log: The log.
        stack: What ends it.
        registry: Where its figures are told; None for nowhere.
        reuse_port: Whether other processes of this user that ask for the same may serve on the port too.
        front: What calls come in by; the server is then behind it. It is not opened here.
        report: Called with whether it serves, as `Health` calls it.

    Raises:
        UnavailableError: The database could not be reached.
        SchemaOutdatedError: It has not seen every migration.
        CallersFileError: The callers file is not as it must be.
        ListenError: The address is taken, or not ours.
    """
    known = _known_callers(settings)
    database = await Database.open(
        DatabaseOptions(
            database_url,
            schema=settings.database_schema,
            pool_size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
            lock_timeout=settings.lock_timeout,
        )
    )
    stack.push_async_callback(database.close)
    async with database.connection() as connection:
        await require_privileges(connection, settings.database_schema)
        await require_schema(connection, settings.database_schema)
        page_tokens = PageTokens(await signing_keys.load(connection, "page_token"))

    offload = stack.enter_context(closing(Offload()))
    clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    lease = Lease(clock)
    recogniser = Recogniser()
    tool_sets = ToolSets(database, settings.cache_tool_sets_mib * 2**20, offload)
    cache = KeyCache(lease, recogniser, tool_sets, settings.cache_keys)
    reader = Reader(database, cache, lease, log, clock, settings.lease, call_timeout=settings.call_timeout)
    stack.push_async_callback(reader.close)
    registry = registry or CollectorRegistry()
    writer = Writer(database, clock, writer_waits(registry).observe, reader.new_server)

    parameters = HashParameters(settings.argon2_memory_kib, settings.argon2_passes, settings.argon2_lanes)
    prover = Prover(SecretHasher(parameters), recogniser, threads=settings.argon2_threads, capacity=settings.cache_keys)
    stack.callback(prover.close)
    usage = Usage(database, log, clock, settings.usage_interval)
    stack.push_async_callback(usage.close)
    authorizer = Authorizer(database, lease, cache, tool_sets, recogniser, prover, usage)

    time_limit = TimeLimit(settings.call_timeout)
    gate = Gate(Callers(known, authorizer, recogniser), log, time_limit, offload, settings.max_message_bytes)
    stack.callback(gate.floods.report)
    registry.register(Figures(reader, lease, cache, tool_sets, authorizer, gate))
    authorization = authorization_service.AuthorizationServicer(authorizer, log_grants=settings.log_grants)
    services = (
        (
            key_service.DESCRIPTOR,
            Ability.KEYS,
            key_service.KeyServicer(Keys(database, writer, prover, page_tokens), offload),
        ),
        (
            catalog_service.DESCRIPTOR,
            Ability.CATALOGUE,
            catalog_service.CatalogServicer(Workspaces(database, writer, page_tokens, offload), offload),
        ),
        (authorization_service.DESCRIPTOR, Ability.AUTHORIZE, authorization),
    )
    names = [descriptor.full_name for descriptor, _, _ in services]
    health = Health(database, names, log, report=report)
    await health.check()

    methods = {path: serve for service in services for path, serve in gate.methods(*service).items()}
    if front is not None:
        at_once = gate.at_once(authorization_service.DESCRIPTOR, Ability.AUTHORIZE, authorization.at_once)
        front.answer(methods, at_once, settings)
    public = _public_methods(settings, gate, health, names, behind_envoy=front is not None)
    server, address = _listening(settings, methods, public, front, reuse_port=reuse_port)
    await server.start()
    stack.push_async_callback(_ended, asyncio.create_task(reader.run()))
    stack.push_async_callback(server.stop, settings.drain_timeout)
    if front is not None:
        stack.push_async_callback(front.drain, settings.drain_timeout)
    stack.callback(health.drain)
    for task in (asyncio.create_task(each.run()) for each in (health, usage, time_limit, gate.floods)):
        stack.callback(task.cancel)
    return address


def _public_methods(
    settings: Settings, gate: Gate, health: Health, names: Iterable[str], *, behind_envoy: bool
) -> PublicMethods:
    """Return the methods that anybody may call: health and, where it is wanted, reflection that tells of the names."""
    methods = PublicMethods(PublicLimits(), gate.calls, behind_envoy=behind_envoy)
    health.add_to(methods)
    if settings.reflection:
        add_reflection(methods, (*names, HEALTH_SERVICE))
    return methods


def _listening(
    settings: Settings, methods: Mapping[str, Serve], public: PublicMethods, front: Front | None, *, reuse_port: bool
) -> tuple[grpc.aio.Server, str]:
    """Answers a server of methods, to be started, and the address at which clients find it. Raises ListenError."""
    options = _options(settings, reuse_port=reuse_port) if front is None else _options_behind(settings)
    server = grpc.aio.server(options=options)
    served = Methods(methods, max_calls=settings.max_calls, behind_envoy=front is not None)
    server.add_generic_rpc_handlers((served, public))
    if front is None:
        host, _, _ = settings.listen.rpartition(":")
        return server, f"{host}:{_bind(server, settings)}"
    server.add_insecure_port(f"unix:{front.socket}")
    return server, settings.listen


async def _ended(task: asyncio.Task[object]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _options_behind(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # How much metadata a client may send is the front's to say; it adds the client's certificate.
        ("grpc.max_metadata_size", _METADATA_BYTES_BEHIND),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES_BEHIND),
    ]


def _options(settings: Settings, *, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        # Off by default, so that a second server on the same port is told so instead of sharing it by chance.
        ("grpc.so_reuseport", int(reuse_port)),
        # A client keeps its connection, and with it one worker, for as long as it can; so that clients spread over the
        # workers, and one that leaves is rid of them, connections end by age. gRPC varies it by a tenth, at random, for
        # each connection, so they do not come back all at once. The grace lets the calls end that were under way.
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round((settings.call_timeout + _AGE_GRACE_SECONDS) * 1000)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # Anybody may open connections and say nothing: so they are bounded, and closed after some time.
        ("grpc.max_allowed_incoming_connections", connections.allowed(settings.max_connections, settings.pool_size)),
        ("grpc.server_handshake_timeout_ms", round(connections.HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", round(connections.IDLE_SECONDS * 1000)),
        # Up to a soft limit all is well and from the hard one on nothing is; between them, gRPC refuses at random.
        ("grpc.max_metadata_size", connections.METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", connections.METADATA_BYTES),
        # A client needs more than this at once only to harm others; a well-meaning one opens a second connection.
        ("grpc.max_concurrent_streams", 100),
        # A client that died without a word is noticed within 80 s; one that pings oftener than every 10 s is cut off.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    try:
        if settings.tls_cert is None or settings.tls_key is None:
            return server.add_insecure_port(settings.listen)
        client_ca = settings.tls_client_ca
        credentials = grpc.ssl_server_credentials(
            [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
            root_certificates=None if client_ca is None else client_ca.read_bytes(),
            require_client_auth=client_ca is not None,
        )
        return server.add_secure_port(settings.listen, credentials)
    except (RuntimeError, OSError) as error:
        raise ListenError(f"Cannot serve on {settings.listen}: {error}") from error

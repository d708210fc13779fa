"""Wire one worker together, in one straight line: configuration -> database -> app -> frontend."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from skilder_keys.app.activity.counter import ActivityCounter
from skilder_keys.app.activity.fold import ActivityFold
from skilder_keys.app.activity.reads import ActivityReads
from skilder_keys.app.activity.writer import ActivityWriter
from skilder_keys.app.audit_reads import AuditReads
from skilder_keys.app.authorization.authorizer import Authorizer
from skilder_keys.app.authorization.hash_renewal import HashRenewal
from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.key_loader import KeyLoader
from skilder_keys.app.authorization.memory import Memory
from skilder_keys.app.authorization.snapshots import Snapshots
from skilder_keys.app.authorization.turns import gates
from skilder_keys.app.authorization.usage import Usage
from skilder_keys.app.authorization.verifier import Verifier
from skilder_keys.app.authorization.warm_up import WarmUp
from skilder_keys.app.event_streams import EventStreams
from skilder_keys.app.explanations import Explanations
from skilder_keys.app.fence.lease import Lease
from skilder_keys.app.fence.reader import Reader
from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.app.fence.writer import Writer
from skilder_keys.app.key_changes import KeyChanges
from skilder_keys.app.key_families import KeyFamilies
from skilder_keys.app.key_purge import KeyPurge
from skilder_keys.app.key_revocations import KeyRevocations
from skilder_keys.app.keys import Keys
from skilder_keys.app.tool_users import ToolUsers
from skilder_keys.app.unused_keys import UnusedKeys
from skilder_keys.app.workspace_reads import WorkspaceReads
from skilder_keys.app.workspace_updates import WorkspaceUpdates
from skilder_keys.app.workspaces import Workspaces
from skilder_keys.auth.callers import Callers
from skilder_keys.auth.callers_file import load_callers, local_operator
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.paging import PageTokens
from skilder_keys.offload import Offload
from skilder_keys.rpc import (
    activity_service,
    audit_service,
    authorization_service,
    catalog_service,
    convert_workspaces,
    key_service,
    runtime_service,
)
from skilder_keys.rpc.activity_service import ActivityServicer
from skilder_keys.rpc.audit_service import AuditServicer
from skilder_keys.rpc.authorization_service import AuthorizationServicer
from skilder_keys.rpc.catalog_service import CatalogServicer
from skilder_keys.rpc.decision_log import DecisionLog
from skilder_keys.rpc.gateway import envoy_service
from skilder_keys.rpc.gateway.envoy_service import EnvoyServicer
from skilder_keys.rpc.gateway.gateway import Gateway
from skilder_keys.rpc.health import HEALTH_SERVICE, Health
from skilder_keys.rpc.key_service import KeyServicer
from skilder_keys.rpc.pipeline import Pipeline
from skilder_keys.rpc.reflection import reflection_methods
from skilder_keys.rpc.runtime_service import RuntimeServicer
from skilder_keys.rpc.time_limit import TimeLimit
from skilder_keys.storage import signing_keys
from skilder_keys.storage.activity_partitions import Retention
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.migrations import require_schema
from skilder_keys.storage.privileges import require_privileges
from skilder_keys.transports.frontend import Api
from skilder_keys.transports.gateway_endpoint import CHECK, GatewayEndpoint
from skilder_keys.worker import collector
from skilder_keys.worker.decision_otlp import OtlpCollector
from skilder_keys.worker.decision_writer import DecisionWriter, LineFile
from skilder_keys.worker.readings import Readings
from skilder_keys.worker.tracing import OpenTelemetry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.authorization.proofs import Proofs
    from skilder_keys.auth.callers import KnownCaller
    from skilder_keys.config import Settings
    from skilder_keys.transports.frontend import Frontend


def _known_callers(settings: Settings) -> list[KnownCaller]:
    known = load_callers(settings.callers) if settings.callers else []
    if settings.local_operator:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        known.append(local_operator(settings.operator_token_file))
    return known


def _event_streams(
    settings: Settings, database: Database, page_tokens: PageTokens, clock: Callable[[], float], readings: Readings
) -> EventStreams:
    streams = EventStreams(
        database, page_tokens, clock, max_streams=settings.max_streams, seconds=settings.max_connection_age
    )
    readings.gauge("event_streams", "Calls of FollowEvents that are running.", lambda: streams.open)
    return streams


async def start(
    settings: Settings,
    database_url: str,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
    frontend: Frontend,
    registry: CollectorRegistry,
    proofs: Proofs,
    *,
    worker: int = 0,
    report: Callable[[bool], None] = lambda _: None,
    may_open: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Start a server and return the address that it serves on, HOST:PORT.

    To stop the server, close the exit stack: the server then drains, writes what is pending, and closes the database.

    Args:
        settings: The settings.
        database_url: The URL of the database.
        log: The log.
        stack: Gets the callbacks that stop the server.
        frontend: Receives the calls.
        registry: Gets the server's metrics.
        proofs: The tokens that were verified, also by other workers.
        worker: The number of this worker, which the records of the decision log have.
        report: Called with whether the server serves, as `Health` calls it.
        may_open: Called when all but listening is done. The server listens when it returns.

    Raises:
        UnavailableError: The database could not be reached.
        SchemaOutdatedError: The database lacks migrations.
        CallersFileError: The callers file is not valid.
        ListenError: The address is in use, or this machine does not have it.
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

    offload, clock = stack.enter_context(closing(Offload())), partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    lease = Lease(clock)
    keys = KeyCache(lease, proofs.fingerprint, settings.cache_keys)
    reads = FencedReads(database, lease)
    snapshots = Snapshots(reads, lease, offload, settings.cache_workspaces_mib * 2**20)
    memory = Memory(keys, snapshots)
    reads.on_doubt = memory.drop_all
    reader = Reader(database, memory, lease, log, clock, settings.lease, call_timeout=settings.call_timeout)
    stack.push_async_callback(reader.close)
    writer = Writer(database, clock, collector.writer_waits(registry).observe, reader.new_server)

    verifier = Verifier(_hasher(settings), proofs, threads=settings.argon2_threads)
    stack.callback(verifier.close)
    renewal = HashRenewal(database, verifier, log)
    usage = Usage(database, log, clock, settings.usage_interval)
    stack.push_async_callback(usage.close)
    readings = Readings(registry)  # a part adds metrics of its own here, by `readings.gauge` and `readings.counter`
    counter, activity = await _activity(settings, database, log, clock, stack, readings)
    first_sights = gates(settings.max_calls, settings.pool_size)
    loader = KeyLoader(database, reads, lease, keys, snapshots, proofs.fingerprint, verifier, usage, first_sights)
    warm_up = WarmUp(proofs, loader, keys, lease, log)
    authorizer = Authorizer(memory, loader, usage, counter, offload)

    unused = UnusedKeys(database, writer, log, settings.policy_interval)

    time_limit = TimeLimit(settings.call_timeout)
    callers = Callers(known, authorizer, proofs.fingerprint)
    pipeline = Pipeline(
        *(callers, log, time_limit, offload, settings.max_message_bytes),
        _tracing(settings, stack, worker, (database, verifier, writer)),
    )
    stack.callback(pipeline.log_limiter.report)
    collector.read_all(
        readings, reader, lease, memory, first_sights, database, authorizer, verifier, unused, pipeline, frontend
    )
    streams = _event_streams(settings, database, page_tokens, clock, readings)
    authorization, check = _authorization(authorizer, _decision_log(settings, stack, readings, worker), offload)
    families = KeyFamilies(database, writer, verifier)
    services = {
        key_service.DESCRIPTOR: KeyServicer(
            Keys(database, writer, verifier, page_tokens),
            KeyChanges(database, writer),
            families,
            KeyRevocations(database, writer),
            Explanations(database, page_tokens, offload),
            ToolUsers(database, page_tokens, offload),
            offload,
        ),
        runtime_service.DESCRIPTOR: RuntimeServicer(families),
        catalog_service.DESCRIPTOR: CatalogServicer(
            Workspaces(database, writer, convert_workspaces.workspace_bytes, offload),
            WorkspaceUpdates(database, writer, convert_workspaces.workspace_bytes, offload),
            WorkspaceReads(database, page_tokens, offload),
            offload,
        ),
        activity_service.DESCRIPTOR: ActivityServicer(ActivityReads(database, page_tokens, offload), offload),
        audit_service.DESCRIPTOR: AuditServicer(AuditReads(database, page_tokens), streams, offload),
        authorization_service.DESCRIPTOR: authorization,
        envoy_service.DESCRIPTOR: check,
    }
    names = [descriptor.full_name for descriptor in services]
    health = Health(database, names, log, report=report)
    await health.check()
    reflection = reflection_methods((*names, HEALTH_SERVICE)) if settings.reflection else ()
    api = Api(
        methods={path: serve for service in services.items() for path, serve in pipeline.methods(*service).items()},
        streams={path: serve for service in services.items() for path, serve in pipeline.streams(*service).items()},
        fast_paths=pipeline.fast_paths(authorization_service.DESCRIPTOR, authorization.fast_paths),
        public=(*health.methods, *reflection),
        calls=pipeline.calls,
    )
    for part in (
        *(reader, warm_up, health, usage, *activity, renewal, unused),
        _purge(settings, readings, database, writer, log),
        *(time_limit, pipeline.log_limiter),
    ):
        stack.push_async_callback(_end, asyncio.create_task(part.run()))
    stack.push_async_callback(frontend.stop, settings.drain_timeout)
    if may_open is not None:
        await may_open()
    address = await _listen(frontend, api, settings, stack)
    stack.callback(_drain, streams, health)
    return address


def _purge(
    settings: Settings, readings: Readings, database: Database, writer: Writer, log: FilteringBoundLogger
) -> KeyPurge:
    purge = KeyPurge(database, writer, log, settings.purge_keys_after_days, settings.policy_interval)
    collector.read_purge(readings, purge)
    return purge


def _hasher(settings: Settings) -> SecretHasher:
    return SecretHasher(HashParameters(settings.argon2_memory_kib, settings.argon2_passes, settings.argon2_lanes))


async def _activity(
    settings: Settings,
    database: Database,
    log: FilteringBoundLogger,
    clock: Callable[[], float],
    stack: AsyncExitStack,
    readings: Readings,
) -> tuple[ActivityCounter, tuple[ActivityWriter, ActivityFold]]:
    """Return what counts activity, and what writes and folds it."""
    counter = ActivityCounter(clock, settings.activity_budget, settings.activity_waiting)
    writer = ActivityWriter(database, counter, log, settings.activity_interval)
    await writer.open()
    stack.push_async_callback(writer.close)
    retention = Retention(settings.activity_minute_days, settings.activity_hour_days, settings.activity_day_days)
    fold = ActivityFold(database, log, clock, settings.activity_fold_interval, retention)
    collector.read_activity(readings, counter, writer, fold)
    return counter, (writer, fold)


def _tracing(
    settings: Settings, stack: AsyncExitStack, worker: int, parts: tuple[Database, Verifier, Writer]
) -> OpenTelemetry | None:
    if settings.trace_endpoint is None:
        return None
    tracing = OpenTelemetry(settings.trace_endpoint, settings.trace_ratio, worker)
    tracing.trace_parts(*parts)
    stack.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing


def _decision_log(settings: Settings, stack: AsyncExitStack, readings: Readings, worker: int) -> DecisionLog:
    if settings.decision_log == "off":
        return DecisionLog(None)
    endpoint = settings.decision_log_endpoint
    writer = DecisionWriter(
        LineFile(settings.decision_log_file) if endpoint is None else OtlpCollector(endpoint), worker=worker
    )
    stack.callback(writer.close)
    collector.read_decisions(readings, writer)
    decisions = DecisionLog(writer, every=settings.decision_log == "all")
    stack.callback(decisions.report)
    stack.push_async_callback(_end, asyncio.create_task(decisions.run()))
    return decisions


def _authorization(
    authorizer: Authorizer, decisions: DecisionLog, offload: Offload
) -> tuple[AuthorizationServicer, EnvoyServicer]:
    """Return what decides about tokens, and what decides about requests with tokens."""
    return AuthorizationServicer(authorizer, decisions), EnvoyServicer(Gateway(authorizer, decisions, offload))


async def _listen(frontend: Frontend, api: Api, settings: Settings, stack: AsyncExitStack) -> str:
    """Listen to clients, whose address is returned, and to gateways that ask by HTTP."""
    address = await frontend.start(api, settings)
    if settings.gateway_listen is not None:
        endpoint = GatewayEndpoint(api.methods[CHECK], api.calls, settings)
        stack.push_async_callback(endpoint.stop, settings.drain_timeout)
        await endpoint.start(settings.gateway_listen)
    return address


def _drain(streams: EventStreams, health: Health) -> None:
    streams.drain()
    health.drain()


async def _end(task: asyncio.Task[object]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

"""A served service: a real server on a real port over a real Postgres, and its clients."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import grpc
import yaml
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from skilder.keys.v1 import authorization_service_pb2, key_pb2, key_service_pb2, runtime_service_pb2
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.audit_service_pb2_grpc import AuditServiceStub
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder.keys.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.config import Settings
from skilder_keys.ipc.metrics import families_of
from skilder_keys.supervisor.address import reserve_port
from skilder_keys.supervisor.supervisor import WORKER_COMMAND
from skilder_keys.supervisor.worker_process import WorkerProcess
from skilder_keys.transports.grpcio.frontend import GrpcioFrontend
from skilder_keys.worker.wiring import start
from tests.support.log import CapturedLog, LogFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from skilder.keys.v1 import workspace_pb2
    from skilder_keys.ipc.metrics import Family
    from tests.support.log import Log

TRANSPORTS = ("grpcio", "envoy")
"""The transports; see `Settings.transport`."""

ROLES = ("operator", "auditor", "console", "service")
LIMITED: dict[str, dict[str, Any]] = {
    "of-acme": {"role": "operator", "workspaces": ["acme"]},
    "of-slack": {"role": "service", "mcp_servers": ["slack"]},
}
"""Callers with limits, by their names."""
TOKENS = {name: f"{name}-token-of-the-tests-0123456789abcdef" for name in (*ROLES, *LIMITED)}
_CLOSE_SECONDS = 15.0


class Client:
    """A caller of the service: its stubs, and the calls that tests make most often."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.keys: Any = KeyServiceStub(channel)
        self.catalog: Any = CatalogServiceStub(channel)
        self.authorization: Any = AuthorizationServiceStub(channel)
        self.runtime: Any = RuntimeServiceStub(channel)
        self.activity: Any = ActivityServiceStub(channel)
        self.audit: Any = AuditServiceStub(channel)

    async def apply(self, workspace: workspace_pb2.Workspace, **fields: Any) -> Any:
        """Apply a workspace."""
        from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest  # noqa: PLC0415

        return await self.catalog.ApplyWorkspace(ApplyWorkspaceRequest(workspace=workspace, **fields))

    async def issue(self, **fields: Any) -> key_service_pb2.IssueKeyResponse:
        """Issue a key, by default a workspace key of `acme` that reaches every hat."""
        defaults: dict[str, Any] = {
            "type": key_pb2.KEY_TYPE_WORKSPACE,
            "workspace_id": "acme",
            "description": "Slack Support Bot",
        }
        wanted = defaults | fields
        if wanted["type"] != key_pb2.KEY_TYPE_RUNTIME and wanted.keys().isdisjoint({"hat_limit", "unlimited"}):
            wanted["unlimited"] = [key_pb2.KEY_LIMIT_HATS]
        response: key_service_pb2.IssueKeyResponse = await self.keys.IssueKey(key_service_pb2.IssueKeyRequest(**wanted))
        return response

    async def rotate(self, key_id: str, **fields: Any) -> key_service_pb2.RotateKeyResponse:
        """Rotate a key."""
        response: key_service_pb2.RotateKeyResponse = await self.keys.RotateKey(
            key_service_pb2.RotateKeyRequest(key_id=key_id, **fields)
        )
        return response

    async def rotate_own(self, **fields: Any) -> runtime_service_pb2.RotateOwnKeyResponse:
        """Rotate the key with which this client calls."""
        response: runtime_service_pb2.RotateOwnKeyResponse = await self.runtime.RotateOwnKey(
            runtime_service_pb2.RotateOwnKeyRequest(**fields)
        )
        return response

    async def revoke(self, **fields: Any) -> key_pb2.Key:
        """Revoke a key and return it."""
        response = await self.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(**fields))
        key: key_pb2.Key = response.key
        return key

    async def authorize(self, token: str, **fields: Any) -> authorization_service_pb2.AuthorizeResponse:
        """Authorize a token."""
        response: authorization_service_pb2.AuthorizeResponse = await self.authorization.Authorize(
            authorization_service_pb2.AuthorizeRequest(token=token, **fields)
        )
        return response

    async def read_tool_set(self, token: str, **options: Any) -> authorization_service_pb2.ToolSet:
        """Read what a token reaches, which must be granted, and check that all parts are of one tool set."""
        request = authorization_service_pb2.ReadToolSetRequest(
            request=authorization_service_pb2.AuthorizeRequest(token=token)
        )
        found = authorization_service_pb2.ToolSet()
        async for part in self.authorization.ReadToolSet(request, **options):
            assert part.WhichOneof("part") == "tool_set", part
            assert found.version in ("", part.tool_set.version)
            found.MergeFrom(part.tool_set)
        return found

    async def denial(self, token: str, **fields: Any) -> str:
        """Authorize a token, which must be denied, and return the reason without its prefix."""
        response = await self.authorize(token, **fields)
        assert response.HasField("denied"), response
        return authorization_service_pb2.DenialReason.Name(response.denied.reason).removeprefix("DENIAL_REASON_")


@dataclass
class Refusal:
    """A failed call: its code, the reason and metadata of its only ErrorInfo, and the fields at fault."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        """Unpack a failed call, which must have exactly one ErrorInfo."""
        status = rpc_status.from_call(error)
        assert status is not None, error
        infos, fields = [], {}
        for packed in status.details:
            info, bad_request = ErrorInfo(), BadRequest()
            if packed.Unpack(info):
                infos.append(info)
            elif packed.Unpack(bad_request):
                fields = {each.field: each.description for each in bad_request.field_violations}
        (info,) = infos
        assert info.domain == "keys.skilder"
        return cls(error.code(), error.details() or "", info.reason, dict(info.metadata), fields)


async def refusal(call: Any) -> Refusal:
    """Await a call that must fail, and return its refusal."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError(f"the call succeeded: {response}")


class TokenWatch(grpc.aio.UnaryUnaryClientInterceptor):
    """Records every token that passes a client, so that logs and database can be searched for them."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Search the request and the response for tokens."""
        call = await continuation(details, request)
        self.note(request)
        if (
            details.method.endswith((b"IssueKey", b"RotateKey", b"RotateOwnKey"))
            and await call.code() is grpc.StatusCode.OK
        ):
            self.note(await call)
        return call

    def note(self, message: Any) -> None:
        """Search a message for tokens."""
        for each in (message, *getattr(message, "requests", ()), getattr(message, "request", None)):
            token = getattr(each, "token", "")
            if token:
                self.seen.add(token)


@dataclass
class Service:
    """A served service.

    Attributes:
        operator, auditor, console, service: Four callers, by their roles.
        of_acme, of_slack: An operator that is limited to the workspace `acme`, and a service limited to `slack`.
        collect: Returns the metrics.
        runs: Returns whether what serves has not ended.
    """

    address: str
    database_url: str
    log: Log
    watch: TokenWatch
    stack: AsyncExitStack
    collect: Callable[[], Awaitable[list[Family]]]
    runs: Callable[[], bool] = lambda: True

    async def __aenter__(self) -> Self:
        """Connect the callers."""
        self.operator = await self.client(TOKENS["operator"])
        self.auditor = await self.client(TOKENS["auditor"])
        self.console = await self.client(TOKENS["console"])
        self.service = await self.client(TOKENS["service"])
        self.of_acme = await self.client(TOKENS["of-acme"])
        self.of_slack = await self.client(TOKENS["of-slack"])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: the stack closes the callers."""

    async def caller_of(self, method: str) -> Client:
        """Return a client that may call a method: the operator or, for its own methods, a new runtime of `acme`."""
        if not method.startswith("RuntimeService/"):
            return self.operator
        issued = await self.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id=f"runtime-{uuid4()}")
        return await self.client(issued.token)

    async def metric(self, name: str, **labels: str) -> float:
        """Return one of the service's metrics, e.g. `cache_hits_total`."""
        samples = [sample for family in await self.collect() for sample in family["samples"]]
        values = [value for *sample, value in samples if sample == [f"skilder_keys_{name}", labels]]
        assert len(values) == 1, name
        return values[0]

    async def client(
        self,
        token: str | None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> Client:
        """Return a new client that calls with a bearer token, or with none."""
        interceptors: list[Any] = [self.watch, _WatchOfStreams(self.watch)]
        if token is not None:
            interceptors += [_Bearer(token), _BearerOfStreams(token)]
        if credentials is None:
            channel = grpc.aio.insecure_channel(self.address, options, interceptors=interceptors)
        else:
            channel = grpc.aio.secure_channel(self.address, credentials, options, interceptors=interceptors)
        await self.stack.enter_async_context(channel)
        return Client(channel)


class _Bearer(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Add the bearer token."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._token}")
        return await continuation(details._replace(metadata=metadata), request)


# grpc.aio uses an interceptor for one kind of call only.
class _BearerOfStreams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._bearer = _Bearer(token)

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Add the bearer token."""
        return await self._bearer.intercept_unary_unary(continuation, details, request)


class _WatchOfStreams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, watch: TokenWatch) -> None:
        self._watch = watch

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Search the request for tokens."""
        self._watch.note(request)
        return await continuation(details, request)


@asynccontextmanager
async def serving(database_url: str, folder: Path, *, transport: str, **settings: Any) -> AsyncIterator[Service]:
    """Serve on a free port, with the callers of TOKENS, for the duration of the context.

    With grpcio the service runs in this process. With Envoy it runs in a worker process, whose log is in the folder.
    """
    async with AsyncExitStack() as stack:
        if transport == "envoy":
            by_a_worker = serving_by_a_worker(database_url, folder, transport=transport, **settings)
            yield await stack.enter_async_context(by_a_worker)
        else:
            options = Settings(listen="127.0.0.1:0", **_options(folder, transport) | settings)
            yield await stack.enter_async_context(await _served_here(options, database_url, stack))


@asynccontextmanager
async def serving_by_a_worker(
    database_url: str, folder: Path, *, transport: str, **settings: Any
) -> AsyncIterator[Service]:
    """Serve as `serving` does, with each transport in a worker process."""
    async with AsyncExitStack() as stack:
        listen = stack.enter_context(reserve_port("127.0.0.1:0"))
        options = Settings(listen=listen, **_options(folder, transport) | settings)
        yield await stack.enter_async_context(await _served_by_a_worker(options, database_url, folder, stack))


def _options(folder: Path, transport: str) -> dict[str, Any]:
    callers_file = folder / "callers.yaml"
    if not callers_file.exists():
        write_callers(callers_file, [])
    return {"transport": transport, "data_dir": folder / "data", "callers": callers_file, "drain_timeout": 1}


async def _served_here(settings: Settings, database_url: str, stack: AsyncExitStack) -> Service:
    log, registry = CapturedLog(), CollectorRegistry()
    proofs = Proofs.of_one_process(settings.cache_keys)
    address = await start(settings, database_url, log.logger, stack, GrpcioFrontend(reuse_port=False), registry, proofs)

    async def collect() -> list[Family]:
        return families_of(registry.collect())

    return Service(address, database_url, log, TokenWatch(), stack, collect)


async def _served_by_a_worker(settings: Settings, database_url: str, folder: Path, stack: AsyncExitStack) -> Service:
    number, path = tempfile.mkstemp(prefix="worker-", suffix=".log", dir=folder)
    os.close(number)
    command = ("/bin/sh", "-c", 'exec "$@" 2>>"$0"', path, *WORKER_COMMAND)
    settings = settings.model_copy(update={"log_format": "json"})
    worker = await WorkerProcess.start(command, settings, database_url, 0)
    log = LogFile(Path(path))

    async def end(kind: type[BaseException] | None, *_: object) -> None:
        await worker.end(settings.drain_timeout + _CLOSE_SECONDS)
        # An earlier failure of the test says more.
        if kind is None:
            assert await worker.ended() == 0, log.text()
            assert log.faults() == [], log.text()

    async def collect() -> list[Family]:
        families = None
        while families is None:
            assert worker.runs, log.text()
            await asyncio.sleep(0)  # without a message it returns at once
            families = await worker.metrics()
        return families

    stack.push_async_exit(end)
    return Service(settings.listen, database_url, log, TokenWatch(), stack, collect, lambda: worker.runs)


def write_callers(path: Path, more: list[dict[str, Any]]) -> None:
    """Write a callers file with the callers of TOKENS and some more."""
    known = [
        {"name": name, "role": name, "token_sha256": hashlib.sha256(token.encode()).hexdigest()} | LIMITED.get(name, {})
        for name, token in TOKENS.items()
    ]
    path.write_text(yaml.safe_dump({"callers": known + more}))
